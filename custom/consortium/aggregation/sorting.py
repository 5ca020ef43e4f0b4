"""Sorting the hospitals' values at every coordinate at once.

A sorting network is a fixed list of compare-and-exchange steps, so that one step runs over a block
of coordinates with `np.minimum` and `np.maximum`. Batcher's odd-even merge sort (AFIPS 1968), from
which whatever does not reach the wanted ranks is cut.

Weights travel inside the numbers: a float32 as a double has 29 bits of its significand to spare,
where a weight fits, and numbers so marked sort as the numbers did.
"""

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

MARK_BITS = 29
_MARK = np.int64((1 << MARK_BITS) - 1)

Float = TypeVar("Float", np.float32, np.float64)
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


def sort_rows(
    rows: list[NDArray[Float]], spare: NDArray[Float], ranks: Collection[int]
) -> list[NDArray[Float]]:
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


def mark_rows(
    rows: list[NDArray[np.float32]], weights: Sequence[int], out: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """Copies rows of finite values into doubles, each with its weight inside.

    Args:
        rows: one a hospital.
        weights: of the hospitals, 0 or more and below `2**MARK_BITS`.
        out: (hospitals, at least as many doubles as a row has values).

    Returns:
        The marked rows, views of `out`.
    """
    marked = [place[: row.size] for place, row in zip(out, rows, strict=False)]
    for place, row, weight in zip(marked, rows, weights, strict=True):
        place[:] = row
        words = place.view(np.int64)
        np.bitwise_or(words, np.int64(weight), out=words)
    return marked


def unmark(marked: NDArray[np.float64], weights: NDArray[np.int64]) -> None:
    """Takes the weights out of marked values, in place.

    Args:
        marked: values with weights inside; values alone afterwards.
        weights: filled with the weights.
    """
    words = marked.view(np.int64)
    np.bitwise_and(words, _MARK, out=weights)
    np.bitwise_xor(words, weights, out=words)
