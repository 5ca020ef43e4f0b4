"""Sorts the hospitals' values at all coordinates at once, and finds quantiles by weight.

A sorting network is a fixed list of compare-and-exchange steps, so that one step processes a block
of coordinates with `np.minimum` and `np.maximum`: Batcher's odd-even merge sort (AFIPS 1968),
without the steps that do not affect the wanted ranks. If hospitals differ in weight, the rank of a
quantile differs from coordinate to coordinate. A binary search among its possible ranks finds it;
each step sums the weights of the hospitals above a value.
"""

from collections.abc import Collection, Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float32]
Step = tuple[int, int, bool, bool]
"""Two rows, and whether the smaller and the larger value are needed."""


@lru_cache(maxsize=64)
def network(count: int, ranks: frozenset[int]) -> tuple[Step, ...]:
    """Returns the steps that put the values of these ranks into their rows.

    Args:
        count: number of values, at least 1.
        ranks: ranks from 0, the smallest value.
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
    """Returns the steps of `network` as an array, (steps, 4)."""
    return np.array(network(count, ranks), np.int64).reshape(-1, 4)


def _merge_sort(count: int) -> list[tuple[int, int]]:
    pairs = []
    size = 1
    while size < count:
        step = size
        while step:
            for start in range(step % size, count - step, 2 * step):
                for low in range(start, min(start + step, count - step)):
                    # Compares only within the two halves that are being merged.
                    if low // (2 * size) == (low + step) // (2 * size):
                        pairs.append((low, low + step))
            step //= 2
        size *= 2
    return pairs


def sort_rows(rows: list[Row], spare: Row, ranks: Collection[int]) -> list[Row]:
    """Puts the values of the wanted ranks into their rows, at every coordinate.

    Args:
        rows: one a hospital, overwritten.
        spare: one more row.
        ranks: ranks from 0, the smallest value.

    Returns:
        The rows in their new order; rows of other ranks are undefined.
    """
    for low, high, smaller, larger in network(len(rows), frozenset(ranks)):
        first, second = rows[low], rows[high]
        if smaller:
            np.minimum(first, second, out=spare)
        if larger:
            np.maximum(first, second, out=second)
        if smaller:
            rows[low], spare = spare, first
    return rows


def quantile_ranks(weights: Sequence[int], above: int) -> range:
    """Returns the possible ranks of the smallest value with at most this weight above it.

    Args:
        weights: weights of the hospitals.
        above: the weight, 0 or more.
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
        weights: weights of the hospitals, whole numbers with a sum below 2**31.
        block: largest number of coordinates.
    """

    def __init__(self, weights: Sequence[int], block: int):
        self._weights = [np.int32(weight) for weight in weights]
        self._buffers = np.empty((len(weights) + 1, block), np.float32)
        self._above, self._part, self._mask = np.empty((3, block), np.int32)

    def find(self, rows: Sequence[Row], ordered: Sequence[Row], ranks: range, above: int) -> Row:
        """Finds the smallest value with at most this weight above it, at every coordinate.

        Args:
            rows: values of the hospitals.
            ordered: the same, sorted at least in these ranks.
            ranks: see `quantile_ranks`.
            above: the weight.

        Returns:
            A new row, or one of `ordered`.
        """
        candidates = [ordered[rank] for rank in ranks]
        size = candidates[0].size
        mask = self._mask[:size]
        while len(candidates) > 1:
            half = (len(candidates) + 1) // 2
            # All bits are set if too much weight is above the last value of the lower half.
            np.subtract(np.int32(above), self.above(rows, candidates[half - 1]), out=mask)
            np.right_shift(mask, 31, out=mask)
            upper = candidates[half:] + candidates[-1:] * (2 * half - len(candidates))
            candidates = [
                self._choose(low, high, mask, buffer[:size])
                for low, high, buffer in zip(candidates[:half], upper, self._buffers, strict=False)
            ]
        return candidates[0]

    def above(self, rows: Sequence[Row], values: Row) -> NDArray[np.int32]:
        """Sums the weights of the hospitals above these values; the next call overwrites it."""
        size = values.size
        total, part = self._above[:size], self._part[:size]
        difference = part.view(np.float32)
        total[:] = 0
        for row, weight in zip(rows, self._weights, strict=True):
            np.subtract(values, row, out=difference)
            np.right_shift(part, 31, out=part)  # all bits are set if the difference is negative
            np.bitwise_and(part, weight, out=part)
            np.add(total, part, out=total)
        return total

    def _choose(self, low: Row, high: Row, mask: NDArray[np.int32], out: Row) -> Row:
        """Chooses the low value, or the high value if all bits of the mask are set."""
        low_bits, high_bits = low.view(np.int32), high.view(np.int32)
        chosen = self._part[: low.size]
        np.bitwise_xor(low_bits, high_bits, out=chosen)
        np.bitwise_and(chosen, mask, out=chosen)
        np.bitwise_xor(chosen, low_bits, out=out.view(np.int32))
        return out
