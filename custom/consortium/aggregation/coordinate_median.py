"""The weighted median of every coordinate.

Yin et al., ICML 2018, definition 1, with weights: for each element, the smallest value at which
half of the hospitals' weight is reached; if exactly half is reached, the mean of that value and the
next.

* Use it for many hospitals of similar size with similar data, if less than half of the weight may
  be hostile.
* Without an attacker, it ignores small hospitals with unusual data, because a median is not a mean.
  If one hospital has more than half of the weight, the result is that hospital's update.
* It does not stop attackers that together hold half of the weight, nor changes that stay between
  the honest ones at every coordinate.
"""

from collections.abc import Sequence

import numpy as np

from consortium.aggregation.coordinates import Coordinates, SortedBlock
from consortium.aggregation.sorting import Row

OPTIONS = {"max_share": None}
"""See `consortium.settings.rules`."""


class CoordinateMedian(Coordinates):
    """Weighted coordinate-wise median; see the module."""

    def _weights_above(self, total: int) -> tuple[int, int]:
        # They differ if the half is a whole number, which can then be reached exactly.
        return total // 2, (total - 1) // 2

    def _factors(self, weights: Sequence[int]) -> Row:
        return np.array([0.5], np.float32)

    def _of_block(self, block: SortedBlock) -> Row:
        lower, upper = self._weights_above(block.total)
        median = block.quantile(lower)
        if lower != upper and block.is_one_rank(upper):
            median = median + block.quantile(upper)
            median *= np.float32(0.5)
        elif lower != upper:
            block.average_with_next(median, lower)
        return median
