"""The weighted mean of every coordinate without its extremes.

Yin et al., ICML 2018, definition 2, with weights: for each element, the values are sorted, a share
of the weight is cut off at either end, and the rest is averaged by weight. A hospital at the edge
of the cut counts with the remaining part of its weight, so the result is continuous in the share,
and a hospital of k cases equals k hospitals of one case.

* Use it for many hospitals of similar size, some of which may be hostile, if a median is too coarse
  for their data.
* Without an attacker, it drops the most unusual hospitals' value of each element.
* It does not stop attackers that hold more than the share, nor changes that stay between the honest
  ones at every coordinate.
"""

import math
from collections.abc import Sequence

import numpy as np

from consortium.aggregation.coordinates import Coordinates, SortedBlock
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
        "meaning": "the share of the weight that is cut off at either end",
    },
}
"""See `consortium.settings.rules`."""


class TrimmedMean(Coordinates):
    """Weighted trimmed mean; see the module.

    Args:
        schema: schema of the model.
        max_change: see `BufferedRule`.
        max_share: see `BufferedRule`.
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
        # Values that are cut off count as the edge of the cut, which is then subtracted again.
        cut = self._trim * sum(weights)
        left = sum(weights) - 2 * cut
        return np.array([-cut / left, *(weight / left for weight in weights)], np.float32)

    def _of_block(self, block: SortedBlock) -> Row:
        size = block.rows[0].size
        low, part = block.spare[:size], block.other_spare[:size]
        above_low, above_high = self._weights_above(block.total)
        low[:] = block.quantile(above_low)
        high = block.quantile(above_high)
        edge_factor, *factors = self._factors(block.weights)
        total = np.add(low, high)
        total *= edge_factor
        for row, factor in zip(block.rows, factors, strict=True):
            np.maximum(row, low, out=part)
            np.minimum(part, high, out=part)
            part *= factor
            total += part
        return total
