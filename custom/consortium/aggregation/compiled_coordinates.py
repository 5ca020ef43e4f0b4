"""The rules of `coordinates` in one compiled pass; needs numba, an extra of the package.

A tile, a few coordinates of all hospitals, stays in the processor's nearest memory from the first
reading to the distances. What always holds: the bytes are those of numpy's way. Where hospitals
differ in weight, a value and its weight are sorted as one whole number; the quantiles are then
found by adding up weights from the largest value downwards.
"""

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic
from numba.np.numpy_support import carray
from numpy.typing import NDArray

from consortium.aggregation.sorting import Row

_ZERO = np.float32(0)  # added to a value, it leaves one zero, not two
_MAGNITUDE = 0x7FFFFFFF  # of the bits of a float32
_WEIGHT = 0xFFFFFFFF  # of the bits of a value and its weight

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
def _order(value: np.float32) -> np.int64:
    """A whole number of 32 bits; those of two values are in the order of the values."""
    bits = np.int64(np.float32(value).view(np.int32))
    return bits ^ ((bits >> 31) & _MAGNITUDE)


@njit(nogil=True, cache=True)
def _value(key: np.int64) -> np.float32:
    bits = key >> 32
    return np.int32(bits ^ ((bits >> 31) & _MAGNITUDE)).view(np.float32)


@njit(nogil=True, cache=True)
def _sort(tile: NDArray[Any], size: int, steps: Numbers) -> None:
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
        for hospital in range(addresses.size):
            row = _part(addresses[hospital], start, size)
            values = tile[hospital, :size]
            for index in range(size):
                values[index] = row[index] + _ZERO
        _sort(tile, size, steps)
        low, high = tile[ranks[0], :size], tile[ranks[1], :size]
        _finish(addresses, start, low, high, factors, out[start : start + size], squared)
    return squared


@njit(
    "float64[::1](int64[::1], int64[::1], int64[:, ::1], int64, int64[::1], float32[::1], int64,"
    " float32[::1])",
    nogil=True,
    cache=True,
)
def combine_by_weight(
    addresses: Numbers,
    weights: Numbers,
    steps: Numbers,
    lowest: int,
    above: Numbers,
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
    squared = np.zeros(addresses.size)
    tile = np.empty((addresses.size, lane), np.int64)
    reached, lower, higher = np.empty((3, lane), np.int64)
    low, high = np.empty((2, lane), np.float32)
    for start in range(0, out.size, lane):
        size = min(lane, out.size - start)
        for hospital in range(addresses.size):
            row = _part(addresses[hospital], start, size)
            values, weight = tile[hospital, :size], weights[hospital]
            for index in range(size):
                values[index] = (_order(row[index] + _ZERO) << 32) | weight
        _sort(tile, size, steps)
        values = tile[addresses.size - 1, :size]
        for index in range(size):
            reached[index] = 0
            lower[index] = higher[index] = values[index]
        for rank in range(addresses.size - 2, lowest - 1, -1):
            values, larger = tile[rank, :size], tile[rank + 1, :size]
            for index in range(size):
                reached[index] += larger[index] & _WEIGHT
                lower[index] = values[index] if reached[index] <= above[0] else lower[index]
                higher[index] = values[index] if reached[index] <= above[1] else higher[index]
        for index in range(size):
            low[index], high[index] = _value(lower[index]), _value(higher[index])
        part = out[start : start + size]
        _finish(addresses, start, low[:size], high[:size], factors, part, squared)
    return squared
