"""The inner loop of `exact_sum`, compiled; needs numba, which is an extra of the package."""

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit("float64(float32[::1], float64, int64[::1], float64, float64)", nogil=True, cache=True)
def accumulate(
    values: NDArray[np.float32],
    factor: float,
    words: NDArray[np.int64],
    bound: float,
    most: float,
) -> float:
    """Adds values times a factor, cut off to whole numbers, to words.

    Args:
        values: (n).
        factor: of all.
        words: (n), added to.
        bound: nothing is added where a magnitude is beyond.
        most: nothing is added where a magnitude reaches it.

    Returns:
        The largest magnitude; NaN where one value is.
    """
    largest = np.float32(0)
    odd = False
    for index in range(values.size):
        value = abs(values[index])
        odd |= value != value
        largest = max(largest, value)
    if odd:
        return np.nan
    if largest <= bound and largest < most:
        for index in range(values.size):
            words[index] += np.int64(np.float64(values[index]) * factor)
    return float(largest)
