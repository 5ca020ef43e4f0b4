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

import numpy as np
from numpy.typing import NDArray

from consortium.aggregation.coordinates import Coordinates, Workplace
from consortium.aggregation.sorting import sort_rows, unmark
from consortium.update import MAX_CHANGE, Layout


class TrimmedMean(Coordinates):
    """Weighted trimmed mean; see the module.

    Args:
        layout: of the model.
        max_change: see `Collected`.
        max_share: see `Collected`.
        trim: share of the weight that is cut off at either end, 0 to below 0.5.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        max_change: float = MAX_CHANGE,
        max_share: float = 1.0,
        trim: float = 0.2,
    ):
        super().__init__(layout, max_change=max_change, max_share=max_share)
        self._trim = trim

    def _equal(self, rows: list[NDArray[np.float32]], place: Workplace) -> NDArray[np.floating]:
        count = len(rows)
        cut = self._trim * count
        first = min(math.floor(cut), (count - 1) // 2)
        edge = 1 - (cut - first)
        rows = sort_rows(rows, place.spare_single[: rows[0].size], range(first, count - first))
        size = rows[0].size
        total, part = place.double[:size], place.double_too[:size]
        total[:] = rows[first]
        if first < count - 1 - first:
            total += rows[count - 1 - first]
            total *= edge
            for row in rows[first + 1 : count - 1 - first]:
                part[:] = row
                total += part
            total /= count - 2 * cut
        return total

    def _weighted(self, rows: list[NDArray[np.float64]], place: Workplace) -> NDArray[np.float64]:
        cut = self._trim * place.total
        rows = sort_rows(rows, place.spare_double[: rows[0].size], range(len(rows)))
        size = rows[0].size
        weight, reached = place.words[0][:size], place.words[1][:size]
        total, before, after = (
            each[:size] for each in (place.double, place.double_too, place.third)
        )
        reached[:], total[:], before[:] = 0, 0.0, cut
        for row in rows:
            unmark(row, weight)
            reached += weight
            after[:] = reached
            np.minimum(after, place.total - cut, out=after)
            np.maximum(after, cut, out=after)
            np.subtract(after, before, out=before)
            row *= before
            total += row
            before, after = after, before
        total /= place.total - 2 * cut
        return total
