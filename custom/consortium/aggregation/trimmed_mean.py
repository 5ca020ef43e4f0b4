"""The weighted mean of every coordinate without its extremes.

Yin et al., ICML 2018, definition 2, with weights: of each element the values are put in order, a
share of the weight is cut off at either end, and the rest is averaged by weight. A hospital at the
edge of the cut counts for the part of its weight that is left, so that cutting is smooth in the
share and a hospital of k cases is as good as k hospitals of one. When to use it: many hospitals of
like size, some of which may be hostile, for whose data a median is too coarse. What it costs
without an attacker: of each element what the most unlike hospitals say. What it does not stop:
attackers that hold more than the share, and changes that stay between the honest ones at every
coordinate.
"""

import math
from collections.abc import Sequence

import numpy as np

from consortium.aggregation.coordinates import Coordinates, Workplace
from consortium.aggregation.sorting import Row
from consortium.protocol.schema import ModelSchema
from consortium.protocol.update import MAX_CHANGE

OPTIONS = {
    "max_share": None,
    "trim": {
        "type": "number",
        "least": 0,
        "below": 0.5,
        "default": 0.2,
        "meaning": "share of the weight that is cut off at either end",
    },
}
"""See `consortium.settings.rules`."""


class TrimmedMean(Coordinates):
    """Weighted trimmed mean; see the module.

    Args:
        schema: of the model.
        max_change: see `Collected`.
        max_share: see `Collected`.
        trim: share of the weight that is cut off at either end, 0 to below 0.5.
    """

    def __init__(
        self,
        schema: ModelSchema,
        *,
        max_change: float = MAX_CHANGE,
        max_share: float = 1.0,
        trim: float = 0.2,
    ):
        super().__init__(schema, max_change=max_change, max_share=max_share)
        self._trim = trim

    def _weights_above(self, total: int) -> tuple[int, int]:
        cut = self._trim * total
        return math.floor(total - cut), math.floor(cut)

    def _factors(self, weights: Sequence[int]) -> Row:
        # What is cut off counts as the edge that it is cut at, and is then taken from the sum.
        cut = self._trim * sum(weights)
        left = sum(weights) - 2 * cut
        return np.array([-cut / left, *(weight / left for weight in weights)], np.float32)

    def _of_block(self, place: Workplace) -> Row:
        size = place.rows[0].size
        low, part = place.one[:size], place.other[:size]
        above_low, above_high = self._weights_above(place.total)
        low[:] = place.quantile(above_low)
        high = place.quantile(above_high)
        of_edges, *factors = self._factors(place.weights)
        total = np.add(low, high)
        total *= of_edges
        for row, factor in zip(place.rows, factors, strict=True):
            np.maximum(row, low, out=part)
            np.minimum(part, high, out=part)
            part *= factor
            total += part
        return total
