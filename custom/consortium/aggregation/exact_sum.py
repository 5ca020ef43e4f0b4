"""Exact sums of weighted numbers: integers on a fixed grid, in blocks.

Each product of an element and its weight is truncated once, to a multiple of 2**-55 (`GRID`), and
summed in a 64-bit word. If a sum could overflow the word, its block gets a second word for each
element. The sum of the truncated products is exact in every order, and the second words change no
bit of the mean.
"""

import math
from functools import lru_cache
from importlib import import_module
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consortium.aggregation.rule import BLOCK, InvalidUpdate

GRID = 55
"""Sums count in units of 2**-GRID."""
_UNITS = 2.0**GRID
_CARRY = 40  # the second word counts in units of 2**(_CARRY - GRID)
_ROOM = 2.0**62  # largest magnitude of the first word


MANY = 1 << 23
"""Number of elements of a model above which compiled inner loops are worth their start."""


@lru_cache
def find_compiled(name: str = "compiled") -> ModuleType | None:
    """Imports a module of compiled inner loops; None if numba is not installed."""
    try:
        # It takes half a second and 125 MB, which only large models are worth.
        return import_module(f"consortium.aggregation.{name}")
    except ImportError:
        return None


class Scratch:
    """One thread's memory for one block."""

    def __init__(self) -> None:
        self.singles = np.empty(BLOCK, np.float32)
        self.words = np.empty(BLOCK, np.int64)


class ExactSum:
    """The sum of one tensor of floating-point numbers.

    Args:
        size: number of elements.
        bound: largest magnitude of an element, at most 2**16.
        compiled: whether to use numba if it is installed.
    """

    def __init__(self, size: int, bound: float, *, compiled: bool = True):
        self._words = np.zeros(size, np.int64)
        self._more: dict[int, NDArray[np.int64]] = {}
        self._bound = bound
        self._compiled = find_compiled() if compiled else None
        self.blocks = -(-size // BLOCK)
        self._load = np.zeros(self.blocks)  # bound on the magnitude of each block's words

    def add(self, block: int, values: NDArray[np.floating], weight: int, scratch: Scratch) -> None:
        """Adds a block of a tensor, times a weight.

        Args:
            block: number of the block.
            values: values of the block, float32 or float64.
            weight: a whole number of magnitude below 2**27; negative to subtract.
            scratch: memory of the thread.

        Raises:
            InvalidUpdate: `not-finite` or `too-large`; nothing was added.
        """
        words = self._words[block * BLOCK : (block + 1) * BLOCK]
        factor, units = weight * _UNITS, abs(weight) * _UNITS
        if self._compiled is not None and values.dtype == np.float32:
            largest = self._compiled.accumulate(values, factor, words)
            if largest <= self._bound and self._load[block] + largest * units < _ROOM:
                self._load[block] += largest * units
                return
            self._compiled.subtract(values, factor, words)
        else:
            # NaN propagates into both.
            largest = max(float(values.max()), -float(values.min()))
        if not math.isfinite(largest):
            raise InvalidUpdate("not-finite")
        if largest > self._bound:
            raise InvalidUpdate("too-large")
        if largest * units >= _ROOM:
            self._add_wide(block, values, factor)
            return
        if self._load[block] + largest * units >= _ROOM:
            self._carry(block)
        cut = scratch.words[: values.size]
        # Multiplies in double precision, which is exact here, and then truncates towards zero.
        np.multiply(values, factor, out=cut, dtype=np.float64, casting="unsafe")
        words += cut
        self._load[block] += largest * units

    def _add_wide(self, block: int, values: NDArray[np.floating], factor: float) -> None:
        products = np.trunc(values.astype(np.float64) * factor)
        high = np.floor(products * 2.0**-_CARRY)
        products -= high * 2.0**_CARRY
        self._carry(block)
        self._more[block] += high.astype(np.int64)
        self._words[block * BLOCK : (block + 1) * BLOCK] += products.astype(np.int64)
        self._load[block] += 2.0**_CARRY

    def _carry(self, block: int) -> None:
        words = self._words[block * BLOCK : (block + 1) * BLOCK]
        carried = (words + (1 << (_CARRY - 1))) >> _CARRY
        words -= carried << _CARRY
        if block not in self._more:
            self._more[block] = np.zeros(words.size, np.int64)
        self._more[block] += carried
        self._load[block] = 2.0 ** (_CARRY - 1)

    def mean(self, total: int, out: Tensor) -> None:
        """Writes the sum divided by a total.

        Args:
            total: the divisor, above 0.
            out: receives the result; flat, of any floating-point dtype.
        """
        for block in range(self.blocks):
            if block in self._more:
                self._carry(block)
            span = slice(block * BLOCK, (block + 1) * BLOCK)
            mean = self._words[span].astype(np.float64)
            if block in self._more:
                mean += self._more[block] * 2.0**_CARRY
            mean *= 1 / _UNITS
            mean /= total
            out[span] = torch.from_numpy(mean)

    def reset(self) -> None:
        """Sets the sum to zero and keeps the memory."""
        self._words.fill(0)
        self._load.fill(0)
        for more in self._more.values():
            more.fill(0)
