"""The rules of `coordinates` in one compiled pass; needs numba, an extra of the package.

A tile holds a few coordinates of all hospitals. It stays in the processor's fastest cache from
reading to the distances. The bytes are always those of the numpy version. If hospitals differ in
weight, the weights are sorted with the values and then added up from the largest value downwards.
"""

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic
from numba.np.numpy_support import carray
from numpy.typing import NDArray

from consortium.aggregation.sorting import Row

_ZERO = np.float32(0)  # added to a value, it turns -0 into 0

Numbers = NDArray[np.int64]


def _as_pointer(context: Any, address: Any) -> Any:
    kind: Any = types.CPointer(types.float32)  # type: ignore[no-untyped-call]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(kind))

    return kind(types.int64), generate


_pointer: Any = intrinsic(_as_pointer)


@njit(nogil=True, cache=True)
def _part(address: int, start: int, size: int) -> Any:
    """Returns a part of one hospital's values."""
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
        first, second = tile[steps[step, 0], :size], tile[steps[step, 1], :size]
        if steps[step, 2] and steps[step, 3]:
            for index in range(size):
                low, high = first[index], second[index]
                first[index] = low if low < high else high
                second[index] = high if low < high else low
        elif steps[step, 2]:
            for index in range(size):
                low, high = first[index], second[index]
                first[index] = low if low < high else high
        else:
            for index in range(size):
                low, high = first[index], second[index]
                second[index] = high if low < high else low


@njit(nogil=True, cache=True)
def _sort_with_weights(
    tile: NDArray[np.float32], carried: NDArray[np.int32], size: int, steps: Numbers
) -> None:
    for step in range(steps.shape[0]):
        first, second = tile[steps[step, 0], :size], tile[steps[step, 1], :size]
        first_weight, second_weight = carried[steps[step, 0], :size], carried[steps[step, 1], :size]
        for index in range(size):
            low, high = first[index], second[index]
            low_weight, high_weight = first_weight[index], second_weight[index]
            stay = low < high
            first[index] = low if stay else high
            second[index] = high if stay else low
            first_weight[index] = low_weight if stay else high_weight
            second_weight[index] = high_weight if stay else low_weight


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _squared_distance(values: Row, middle: Row) -> float:
    total = 0.0
    for index in range(middle.size):
        difference = np.float64(values[index] - middle[index])
        total += difference * difference
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
    """Combines a tensor if both quantiles have the same rank at every coordinate.

    Args:
        addresses: memory addresses of the hospitals' values, float32, each as many as `out`.
        steps: see `sorting.step_table`.
        ranks: ranks of the lower and the higher quantile.
        factors: see `Coordinates`.
        lane: number of coordinates in a tile.
        out: receives the result.

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
        addresses: memory addresses of the hospitals' values, float32, each as many as `out`.
        weights: weights of the hospitals, with a sum below 2**31.
        steps: see `sorting.step_table`.
        lowest: lowest rank of a quantile; only ranks from here on are sorted.
        above: weight above the lower and the higher quantile.
        factors: see `Coordinates`.
        lane: number of coordinates in a tile.
        out: receives the result.

    Returns:
        The squared distance of each hospital's values from the result.
    """
    above_low, above_high = above[0], above[1]
    squared = np.zeros(addresses.size)
    tile = np.empty((addresses.size, lane), np.float32)
    carried = np.empty((addresses.size, lane), np.int32)
    low, high = np.empty((2, lane), np.float32)
    reached = np.empty(lane, np.int32)
    for start in range(0, out.size, lane):
        size = min(lane, out.size - start)
        _load(addresses, start, tile, size)
        for hospital in range(addresses.size):
            carried[hospital] = weights[hospital]
        _sort_with_weights(tile, carried, size, steps)
        low[:] = high[:] = tile[-1]
        reached[:] = 0
        for rank in range(addresses.size - 2, lowest - 1, -1):
            values, larger = tile[rank], carried[rank + 1]
            for index in range(size):
                # All values are read before the choice; otherwise the loop is not vectorised.
                weight, value = reached[index] + larger[index], values[index]
                last_low, last_high = low[index], high[index]
                reached[index] = weight
                low[index] = value if weight <= above_low else last_low
                high[index] = value if weight <= above_high else last_high
        part = out[start : start + size]
        _finish(addresses, start, low[:size], high[:size], factors, part, squared)
    return squared
