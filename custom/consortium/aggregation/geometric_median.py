"""The weighted geometric median: the point with the smallest weighted distance to all updates.

`argmin_z sum(n_k * |x_k - z|)`, by the smoothed Weiszfeld algorithm (Pillutla et al., IEEE
Transactions on Signal Processing 2022, algorithm 2): `z <- sum(b_k * x_k) / sum(b_k)` with `b_k =
n_k / max(v, |x_k - z|)`. Every z is a weighted mean of the updates, so the iteration needs only
their pairwise distances, which are computed once.

* Use it if most updates are close to each other; up to half of the weight may be anywhere.
* Without an attacker, it favours the large and central hospitals if hospitals differ. If one
  hospital has more than half of the weight, the result is that hospital's update.
* It does not stop attackers that together hold half of the weight, nor attackers whose updates stay
  as close as those of honest hospitals.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from consortium.aggregation.distances import squared_distances
from consortium.aggregation.rule import BufferedRule, Factors, Weights, weighted_sum
from consortium.protocol.schema import ModelSchema, State

OPTIONS = {"max_share": None}
"""See `consortium.settings.rules`."""

_SMOOTHING = 1e-6  # share of the median distance
_TOLERANCE = 1e-9  # change of a factor below which the iteration ends
_STEPS = 1000


class GeometricMedian(BufferedRule):
    """Weighted geometric median; see the module."""

    def _combine(
        self, schema: ModelSchema, states: Sequence[State], weights: Weights
    ) -> tuple[dict[str, Tensor], None]:
        factors = weiszfeld(squared_distances(schema, states), weights)
        # The factors do not measure trust: for honest hospitals on a line, the middle one has all.
        return weighted_sum(schema, states, factors), None


def weiszfeld(squared: Factors, weights: Weights) -> Factors:
    """Computes the factors of the geometric median.

    Args:
        squared: squared distances of all pairs, (n, n).
        weights: weights of the n points.

    Returns:
        Factors that sum to 1.
    """
    factors: Factors = weights / weights.sum()
    positive = squared[squared > 0]
    if not positive.size:
        return factors
    smallest = _SMOOTHING * float(np.sqrt(np.median(positive)))
    for _ in range(_STEPS):
        # |x_k - z|^2 for z = sum(f_j * x_j), from the distances alone.
        from_all = squared @ factors
        distances = np.sqrt(np.maximum(from_all - factors @ from_all / 2, 0.0))
        moved = weights / np.maximum(smallest, distances)
        moved /= moved.sum()
        change = float(np.abs(moved - factors).max())
        factors = moved
        if change < _TOLERANCE:
            break
    return factors
