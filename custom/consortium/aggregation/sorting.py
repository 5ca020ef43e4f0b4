"""Sorting the hospitals' values at every coordinate at once, and finding quantiles by weight.

A sorting network is a fixed list of compare-and-exchange steps, so that one step runs over a block
of coordinates with `np.minimum` and `np.maximum`: Batcher's odd-even merge sort (AFIPS 1968), from
which whatever does not reach the wanted ranks is cut. Where hospitals differ in weight, the rank of
a quantile differs from coordinate to coordinate; it is searched by halves among the ranks that it
can have, with the weight above a value counted over all hospitals at each step.
"""

from collections.abc import Collection, Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float32]
Step = tuple[int, int, bool, bool]
"""Two places, and whether the smaller and the larger value are wanted."""


@lru_cache(maxsize=64)
def network(count: int, ranks: frozenset[int]) -> tuple[Step, ...]:
    """The steps after which the values of these ranks are in their places.

    Args:
        count: values, at least 1.
        ranks: from 0, the smallest.
    """
    steps: list[Step] = []
    wanted = set(ranks)
    for low, high in reversed(_merge_sort(count)):
        smaller, larger = low in wanted, high in wanted
        if smaller or larger:
            steps.append((low, high, smaller, larger))
            wanted |= {low, high}
    return tuple(reversed(steps))


@lru_cache(maxsize=64)
def step_table(count: int, ranks: frozenset[int]) -> NDArray[np.int64]:
    """The steps of `network`, (steps, 4)."""
    return np.array(network(count, ranks), np.int64).reshape(-1, 4)


def _merge_sort(count: int) -> list[tuple[int, int]]:
    pairs = []
    size = 1
    while size < count:
        step = size
        while step:
            for start in range(step % size, count - step, 2 * step):
                for low in range(start, min(start + step, count - step)):
                    # Only within the two halves that are being merged.
                    if low // (2 * size) == (low + step) // (2 * size):
                        pairs.append((low, low + step))
            step //= 2
        size *= 2
    return pairs


def sort_rows(rows: list[Row], spare: Row, ranks: Collection[int]) -> list[Row]:
    """Puts the values of the wanted ranks in their rows, at every coordinate.

    Args:
        rows: one a hospital, overwritten.
        spare: one row more.
        ranks: from 0, the smallest.

    Returns:
        The rows in their new order; those of other ranks hold anything.
    """
    for low, high, smaller, larger in network(len(rows), frozenset(ranks)):
        one, other = rows[low], rows[high]
        if smaller:
            np.minimum(one, other, out=spare)
        if larger:
            np.maximum(one, other, out=other)
        if smaller:
            rows[low], spare = spare, one
    return rows


def quantile_ranks(weights: Sequence[int], above: int) -> range:
    """The ranks that the smallest value with at most so much weight above it can have.

    Args:
        weights: of the hospitals.
        above: 0 or more.
    """
    count = len(weights)
    lightest = [0, *accumulate(sorted(weights))]
    heaviest = [0, *accumulate(sorted(weights, reverse=True))]
    first = next(rank for rank in range(count) if lightest[count - 1 - rank] <= above)
    last = next(rank for rank in range(count) if heaviest[count - 1 - rank] <= above)
    return range(first, last + 1)


class Quantiles:
    """Finds quantiles by weight in blocks of coordinates.

    Args:
        weights: of the hospitals, whole numbers with a sum below 2**31.
        block: largest number of coordinates.
    """

    def __init__(self, weights: Sequence[int], block: int):
        self._weights = [np.int32(weight) for weight in weights]
        self._found = np.empty((len(weights) + 1, block), np.float32)
        self._above, self._part, self._mask = np.empty((3, block), np.int32)

    def find(self, rows: Sequence[Row], ordered: Sequence[Row], ranks: range, above: int) -> Row:
        """The smallest value with at most so much weight above it, at every coordinate.

        Args:
            rows: of the hospitals.
            ordered: the same, sorted at least in these ranks.
            ranks: see `quantile_ranks`.
            above: the weight.

        Returns:
            A new row, or one of the ordered.
        """
        candidates = [ordered[rank] for rank in ranks]
        size = candidates[0].size
        mask = self._mask[:size]
        while len(candidates) > 1:
            half = (len(candidates) + 1) // 2
            # All ones where too much weight is above the lower half's last.
            np.subtract(np.int32(above), self.above(rows, candidates[half - 1]), out=mask)
            np.right_shift(mask, 31, out=mask)
            upper = candidates[half:] + candidates[-1:] * (2 * half - len(candidates))
            candidates = [
                self._choose(low, high, mask, place[:size])
                for low, high, place in zip(candidates[:half], upper, self._found, strict=False)
            ]
        return candidates[0]

    def above(self, rows: Sequence[Row], values: Row) -> NDArray[np.int32]:
        """The weight of the hospitals that are above these values; overwritten by the next call."""
        size = values.size
        total, part = self._above[:size], self._part[:size]
        difference = part.view(np.float32)
        total[:] = 0
        for row, weight in zip(rows, self._weights, strict=True):
            np.subtract(values, row, out=difference)
            np.right_shift(part, 31, out=part)  # all ones where the difference is negative
            np.bitwise_and(part, weight, out=part)
            np.add(total, part, out=total)
        return total

    def _choose(self, low: Row, high: Row, mask: NDArray[np.int32], out: Row) -> Row:
        """The low value, or the high one where the mask is all ones."""
        one, other, chosen = low.view(np.int32), high.view(np.int32), self._part[: low.size]
        np.bitwise_xor(one, other, out=chosen)
        np.bitwise_and(chosen, mask, out=chosen)
        np.bitwise_xor(chosen, one, out=out.view(np.int32))
        return out
