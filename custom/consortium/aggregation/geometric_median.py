"""The weighted geometric median: the point with the smallest weighted distance to all updates.

`argmin_z sum(n_k * |x_k - z|)`, by the smoothed Weiszfeld algorithm (Pillutla et al., IEEE
Transactions on Signal Processing 2022, algorithm 2): `z <- sum(b_k * x_k) / sum(b_k)` with `b_k =
n_k / max(v, |x_k - z|)`. Every z is a weighted mean of the updates, so the iteration needs their
pairwise distances alone, which are computed once. When to use it: updates that are close to each
other but for some that are not; up to half of the weight may be anywhere. What it costs without an
attacker: where hospitals differ it leans towards the heavy and central ones; with one hospital of
more than half of the weight it is that hospital's update alone. What it does not stop: attackers
that together hold half of the weight, or that stay as close as honest hospitals do.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from consortium.aggregation.distances import squared_distances
from consortium.aggregation.rule import Collected, Factors, Weights, weighted_sum
from consortium.protocol.schema import ModelSchema, State

OPTIONS = {"max_share": None}
"""See `consortium.settings.rules`."""

_SMOOTHING = 1e-6  # of the median distance
_TOLERANCE = 1e-9  # change of a factor after which it ends
_STEPS = 1000


class GeometricMedian(Collected):
    """Weighted geometric median; see the module."""

    def _combine(
        self, schema: ModelSchema, states: Sequence[State], weights: Weights
    ) -> tuple[dict[str, Tensor], None]:
        factors = weiszfeld(squared_distances(schema, states), weights)
        # No measure of trust: of honest hospitals in a row it is the middle one's that is all.
        return weighted_sum(schema, states, factors), None


def weiszfeld(squared: Factors, weights: Weights) -> Factors:
    """The factors of the geometric median.

    Args:
        squared: squared distances of all pairs, (n, n).
        weights: of the n points.

    Returns:
        Factors that sum to 1.
    """
    factors: Factors = weights / weights.sum()
    apart = squared[squared > 0]
    if not apart.size:
        return factors
    smallest = _SMOOTHING * float(np.sqrt(np.median(apart)))
    for _ in range(_STEPS):
        # |x_k - z|^2 of z = sum(f_j * x_j), from distances alone.
        from_all = squared @ factors
        distances = np.sqrt(np.maximum(from_all - factors @ from_all / 2, 0.0))
        moved = weights / np.maximum(smallest, distances)
        moved /= moved.sum()
        change = float(np.abs(moved - factors).max())
        factors = moved
        if change < _TOLERANCE:
            break
    return factors
