"""Multi-Krum: the weighted mean of the updates that have the closest neighbours.

Blanchard et al., NeurIPS 2017, sections 4 and 5: an update's score is the sum of its squared
distances to its n - f - 2 nearest neighbours; the n - f updates with the smallest scores are
averaged, here by their cases.

* Use it for comparisons; it is the rule that papers compare with.
* Without an attacker, it leaves out f hospitals every round, first those with unusual data,
  whatever their size.
* It does not stop more than f attackers, nor changes that stay within the honest spread. With
  n < 2 f + 3 hospitals it leaves nobody out.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from consortium.aggregation.distances import squared_distances
from consortium.aggregation.rule import BufferedRule, Factors, Weights, weighted_sum
from consortium.protocol.schema import ModelSchema, State
from consortium.protocol.update import MAX_CHANGE

OPTIONS = {
    "max_share": None,
    "attackers": {
        "type": "integer",
        "least": 1,
        "most": 1_000_000,
        "default": 1,
        "meaning": "number of hospitals that are left out of each round",
    },
}
"""See `consortium.settings.rules`."""


class MultiKrum(BufferedRule):
    """Multi-Krum; see the module.

    Args:
        schema: schema of the model.
        max_change: see `BufferedRule`.
        max_share: see `BufferedRule`.
        attackers: f, the number of hospitals that are left out.
    """

    def __init__(
        self,
        schema: ModelSchema,
        *,
        max_change: float = MAX_CHANGE,
        max_share: float = 1.0,
        attackers: int = 1,
    ):
        super().__init__(schema, max_change=max_change, max_share=max_share)
        self._attackers = attackers

    def _combine(
        self, schema: ModelSchema, states: Sequence[State], weights: Weights
    ) -> tuple[dict[str, Tensor], Factors]:
        count, attackers = len(states), self._attackers
        chosen = np.ones(count)
        if count >= 2 * attackers + 3:
            nearest = np.sort(squared_distances(schema, states), axis=1)
            # The first entry of a row is the distance to itself.
            scores = nearest[:, 1 : count - attackers - 1].sum(axis=1)
            chosen[np.argsort(scores, kind="stable")[count - attackers :]] = 0.0
        factors = weights * chosen / (weights @ chosen)
        return weighted_sum(schema, states, factors), factors
