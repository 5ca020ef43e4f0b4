"""The weighted mean of updates of which none is much longer than the median one.

`sum(n_k * min(1, c / |x_k|) * x_k) / sum(n_k)`: norm bounding (Sun et al., arXiv 1911.07963,
section 3.2), with the bound c not set beforehand but a multiple of the weighted median of the
round's norms (after Andrew et al., NeurIPS 2021, who follow a quantile over rounds). When to use
it: hospitals of very different sizes, of which one may be faulty or hostile, for it honours the
weights. What it costs without an attacker: hospitals whose data are unlike the others' send longer
updates, and are heard less as far as these are beyond the bound. At the median itself (clip 1) that
happens in every round, and after many the model leans to the largest hospital; at 1.5 times the
median it hardly does. What it does not stop: a small change in a bad direction, kept up over
rounds; and a hospital with a large part of the weight, whose clipped update is still that part of
the step, and whose norm is the median norm where it holds half of the weight, unless its share is
capped.
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
from consortium.protocol.schema import ModelSchema, State
from consortium.protocol.update import MAX_CHANGE

OPTIONS = {
    "max_share": None,
    "clip": {
        "type": "number",
        "above": 0,
        "default": 1.5,
        "meaning": "the longest norm that counts in full, in units of the weighted median norm",
    },
}
"""See `consortium.settings.rules`."""


class NormClipping(Collected):
    """Norm-clipped weighted mean; see the module.

    Args:
        schema: of the model.
        max_change: see `Collected`.
        max_share: see `Collected`.
        clip: c in units of the weighted median norm, above 0.
    """

    def __init__(
        self,
        schema: ModelSchema,
        *,
        max_change: float = MAX_CHANGE,
        max_share: float = 1.0,
        clip: float = 1.5,
    ):
        super().__init__(schema, max_change=max_change, max_share=max_share)
        self._clip = clip

    def _combine(
        self, schema: ModelSchema, states: Sequence[State], weights: Weights
    ) -> tuple[dict[str, Tensor], Factors]:
        norms = np.sqrt(
            [sum(squared_norm(as_floats(state[name])) for name in schema) for state in states]
        )
        bound = self._clip * weighted_median(norms, weights)
        clipping = np.ones(len(norms))
        np.divide(bound, norms, out=clipping, where=norms > bound)
        factors = weights / weights.sum() * clipping
        return weighted_sum(schema, states, factors), factors
