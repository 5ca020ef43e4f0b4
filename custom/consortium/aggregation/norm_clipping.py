"""The weighted mean of updates of which none is longer than the median one.

`sum(n_k * min(1, c / |x_k|) * x_k) / sum(n_k)`: norm bounding (Sun et al., arXiv 1911.07963,
section 3.2), with the bound c not set beforehand but the weighted median of the round's norms
(after Andrew et al., NeurIPS 2021, who follow a quantile over rounds). When to use it: hospitals of
very different sizes, of which one may be faulty or hostile, for it honours the weights. What it
costs without an attacker: the longer half of the updates counts for less, so that steps are shorter
and a hospital whose data are unlike the others' is heard less. What it does not stop: a small
change in a bad direction, kept up over rounds; and a hospital with a third of the weight, whose
clipped update is still a third of the step, unless its share is capped.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from consortium.aggregation.rule import (
    Collected,
    Factors,
    Weights,
    as_floats,
    squared_norm,
    weighted_median,
    weighted_sum,
)
from consortium.update import Layout, State


class NormClipping(Collected):
    """Norm-clipped weighted mean; see the module."""

    def _combine(
        self, layout: Layout, states: Sequence[State], weights: Weights
    ) -> tuple[dict[str, Tensor], Factors]:
        norms = np.sqrt(
            [sum(squared_norm(as_floats(state[name])) for name in layout) for state in states]
        )
        bound = weighted_median(norms, weights)
        clipping = np.ones(len(norms))
        np.divide(bound, norms, out=clipping, where=norms > bound)
        factors = weights / weights.sum() * clipping
        return weighted_sum(layout, states, factors), factors
