"""The weighted mean of updates whose norms are clipped near the median norm.

`sum(n_k * min(1, c / |x_k|) * x_k) / sum(n_k)`: norm bounding (Sun et al., arXiv 1911.07963,
section 3.2). The bound c is not fixed; it is a multiple of the weighted median of the round's norms
(after Andrew et al., NeurIPS 2021, who follow a quantile over rounds).

* Use it for hospitals of very different sizes, one of which may be faulty or hostile: it respects
  the weights.
* Without an attacker, hospitals with unusual data send longer updates and lose the part beyond the
  bound. With clip 1, the median itself, that happens in every round, and over many rounds the model
  drifts towards the largest hospital; with 1.5 it hardly does.
* It does not stop a small change in a bad direction that is repeated over rounds. Nor does it stop
  a hospital with a large share of the weight: its clipped update still has that share of the step,
  and with half of the weight its norm is the median norm, unless its share is capped.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from consortium.aggregation.rule import (
    BufferedRule,
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
        "meaning": "the largest norm that is not clipped, in units of the weighted median norm",
    },
}
"""See `consortium.settings.rules`."""


class NormClipping(BufferedRule):
    """Norm-clipped weighted mean; see the module.

    Args:
        schema: schema of the model.
        max_change: see `BufferedRule`.
        max_share: see `BufferedRule`.
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
