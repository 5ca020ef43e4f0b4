"""The compiled inner loop of `exact_sum`; needs numba, an extra of the package.

It adds first and returns the largest magnitude, so memory is read once. If that is too large, the
caller subtracts the same values again, which is exact.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

_ROOM = 2.0**62


@njit("float64(float32[::1], float64, int64[::1])", nogil=True, cache=True)
def accumulate(values: NDArray[np.float32], factor: float, words: NDArray[np.int64]) -> float:
    """Adds values times a factor to words, truncated to whole numbers.

    Args:
        values: (n); a product counts as 0 if its magnitude reaches 2**62 or it is NaN.
        factor: factor of all values.
        words: (n), modified; magnitudes below 2**62.

    Returns:
        The largest magnitude of a value; infinity or NaN if a value is.
    """
    bits = values.view(np.int32)
    # As integers, the magnitudes have the order of the numbers, with NaN after infinity.
    largest = np.int32(0)
    for index in range(values.size):
        product = np.float64(values[index]) * factor
        words[index] += np.int64(product if abs(product) < _ROOM else 0.0)
        largest = max(largest, bits[index] & np.int32(0x7FFFFFFF))
    return np.float64(np.array([largest], np.int32).view(np.float32)[0])


@njit("void(float32[::1], float64, int64[::1])", nogil=True, cache=True)
def subtract(values: NDArray[np.float32], factor: float, words: NDArray[np.int64]) -> None:
    """Undoes `accumulate`."""
    for index in range(values.size):
        product = np.float64(values[index]) * factor
        words[index] -= np.int64(product if abs(product) < _ROOM else 0.0)
