"""The rules of `coordinates` in one compiled pass; needs numba, an extra of the package.

A tile, a few coordinates of all hospitals, stays in the processor's nearest memory from the first
reading to the distances. What always holds: the bytes are those of numpy's way. Where hospitals
differ in weight, weights move along with the values that are sorted, and are then added up from
the largest value downwards.
"""

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic
from numba.np.numpy_support import carray
from numpy.typing import NDArray

from consortium.aggregation.sorting import Row

_ZERO = np.float32(0)  # added to a value, it leaves one zero, not two

Numbers = NDArray[np.int64]


def _as_pointer(context: Any, address: Any) -> Any:
    kind: Any = types.CPointer(types.float32)  # type: ignore[no-untyped-call]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(kind))

    return kind(types.int64), generate


_pointer: Any = intrinsic(_as_pointer)


@njit(nogil=True, cache=True)
def _part(address: int, start: int, size: int) -> Any:
    """Values of one hospital."""
    return carray(_pointer(address + 4 * start), (size,))


@njit(nogil=True, cache=True)
def _load(addresses: Numbers, start: int, tile: NDArray[np.float32], size: int) -> None:
    for hospital in range(addresses.size):
        row, values = _part(addresses[hospital], start, size), tile[hospital]
        for index in range(size):
            values[index] = row[index] + _ZERO


@njit(nogil=True, cache=True)
def _sort(tile: NDArray[np.float32], size: int, steps: Numbers) -> None:
    for step in range(steps.shape[0]):
        one, other = tile[steps[step, 0], :size], tile[steps[step, 1], :size]
        if steps[step, 2] and steps[step, 3]:
            for index in range(size):
                low, high = one[index], other[index]
                one[index] = low if low < high else high
                other[index] = high if low < high else low
        elif steps[step, 2]:
            for index in range(size):
                low, high = one[index], other[index]
                one[index] = low if low < high else high
        else:
            for index in range(size):
                low, high = one[index], other[index]
                other[index] = high if low < high else low


@njit(nogil=True, cache=True)
def _sort_along(
    tile: NDArray[np.float32], along: NDArray[np.int32], size: int, steps: Numbers
) -> None:
    for step in range(steps.shape[0]):
        one, other = tile[steps[step, 0], :size], tile[steps[step, 1], :size]
        with_one, with_other = along[steps[step, 0], :size], along[steps[step, 1], :size]
        for index in range(size):
            low, high = one[index], other[index]
            with_low, with_high = with_one[index], with_other[index]
            stay = low < high
            one[index] = low if stay else high
            other[index] = high if stay else low
            with_one[index] = with_low if stay else with_high
            with_other[index] = with_high if stay else with_low


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _squared_distance(values: Row, middle: Row) -> float:
    total = 0.0
    for index in range(middle.size):
        apart = np.float64(values[index] - middle[index])
        total += apart * apart
    return total


@njit(nogil=True, cache=True)
def _finish(
    addresses: Numbers,
    start: int,
    low: Row,
    high: Row,
    factors: Row,
    out: Row,
    squared: NDArray[np.float64],
) -> None:
    for index in range(out.size):
        out[index] = (low[index] + high[index]) * factors[0] + _ZERO
    for hospital in range(factors.size - 1):
        row, factor = _part(addresses[hospital], start, out.size), factors[hospital + 1]
        for index in range(out.size):
            part = row[index] if row[index] > low[index] else low[index]
            part = part if part < high[index] else high[index]
            out[index] += part * factor
    for hospital in range(addresses.size):
        row = _part(addresses[hospital], start, out.size)
        squared[hospital] += _squared_distance(row, out)


@njit(
    "float64[::1](int64[::1], int64[:, ::1], int64[::1], float32[::1], int64, float32[::1])",
    nogil=True,
    cache=True,
)
def combine_by_rank(
    addresses: Numbers, steps: Numbers, ranks: Numbers, factors: Row, lane: int, out: Row
) -> NDArray[np.float64]:
    """Combines a tensor where both quantiles have the same rank everywhere.

    Args:
        addresses: of the hospitals' values, float32, as many as out has.
        steps: see `sorting.step_table`.
        ranks: of the lower and the higher quantile.
        factors: see `Coordinates`.
        lane: coordinates of a tile.
        out: the result.

    Returns:
        The squared distance of each hospital's values from the result.
    """
    squared = np.zeros(addresses.size)
    tile = np.empty((addresses.size, lane), np.float32)
    for start in range(0, out.size, lane):
        size = min(lane, out.size - start)
        _load(addresses, start, tile, size)
        _sort(tile, size, steps)
        low, high = tile[ranks[0], :size], tile[ranks[1], :size]
        _finish(addresses, start, low, high, factors, out[start : start + size], squared)
    return squared


@njit(
    "float64[::1](int64[::1], int32[::1], int64[:, ::1], int64, int32[::1], float32[::1], int64,"
    " float32[::1])",
    nogil=True,
    cache=True,
)
def combine_by_weight(
    addresses: Numbers,
    weights: NDArray[np.int32],
    steps: Numbers,
    lowest: int,
    above: NDArray[np.int32],
    factors: Row,
    lane: int,
    out: Row,
) -> NDArray[np.float64]:
    """Combines a tensor of hospitals that differ in weight.

    Args:
        addresses: of the hospitals' values, float32, as many as out has.
        weights: of the hospitals, with a sum below 2**31.
        steps: see `sorting.step_table`.
        lowest: rank of a quantile; those from there on are sorted.
        above: weight above the lower and the higher quantile.
        factors: see `Coordinates`.
        lane: coordinates of a tile.
        out: the result.

    Returns:
        The squared distance of each hospital's values from the result.
    """
    above_low, above_high = above[0], above[1]
    squared = np.zeros(addresses.size)
    tile = np.empty((addresses.size, lane), np.float32)
    along = np.empty((addresses.size, lane), np.int32)
    low, high = np.empty((2, lane), np.float32)
    reached = np.empty(lane, np.int32)
    for start in range(0, out.size, lane):
        size = min(lane, out.size - start)
        _load(addresses, start, tile, size)
        for hospital in range(addresses.size):
            along[hospital] = weights[hospital]
        _sort_along(tile, along, size, steps)
        low[:] = high[:] = tile[-1]
        reached[:] = 0
        for rank in range(addresses.size - 2, lowest - 1, -1):
            values, larger = tile[rank], along[rank + 1]
            for index in range(size):
                # All are read before a choice is made, or this is not done for several at once.
                weight, value = reached[index] + larger[index], values[index]
                last_low, last_high = low[index], high[index]
                reached[index] = weight
                low[index] = value if weight <= above_low else last_low
                high[index] = value if weight <= above_high else last_high
        part = out[start : start + size]
        _finish(addresses, start, low[:size], high[:size], factors, part, squared)
    return squared
