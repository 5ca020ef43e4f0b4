"""The inner loop of `exact_sum`, compiled; needs numba, which is an extra of the package.

It adds first and tells the largest magnitude, so that memory is read once; who finds that too large
takes the same values away again, which is exact.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

_ROOM = 2.0**62


@njit("float64(float32[::1], float64, int64[::1])", nogil=True, cache=True)
def accumulate(values: NDArray[np.float32], factor: float, words: NDArray[np.int64]) -> float:
    """Adds values times a factor, cut off to whole numbers, to words.

    Args:
        values: (n); a product whose magnitude reaches 2**62, or that is no number, counts as 0.
        factor: of all.
        words: (n), added to; magnitudes below 2**62.

    Returns:
        The largest magnitude of a value; infinite or NaN where one is.
    """
    bits = values.view(np.int32)
    # As integers, magnitudes are in the order of the numbers, and behind infinity comes NaN.
    largest = np.int32(0)
    for index in range(values.size):
        product = np.float64(values[index]) * factor
        words[index] += np.int64(product if abs(product) < _ROOM else 0.0)
        largest = max(largest, bits[index] & np.int32(0x7FFFFFFF))
    return np.float64(np.array([largest], np.int32).view(np.float32)[0])


@njit("void(float32[::1], float64, int64[::1])", nogil=True, cache=True)
def take_away(values: NDArray[np.float32], factor: float, words: NDArray[np.int64]) -> None:
    """Undoes `accumulate`."""
    for index in range(values.size):
        product = np.float64(values[index]) * factor
        words[index] -= np.int64(product if abs(product) < _ROOM else 0.0)
