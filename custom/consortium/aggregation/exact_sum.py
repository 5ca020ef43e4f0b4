"""Sums of weighted numbers that are exact: integers on a fixed grid, in blocks.

Each product of an element and its weight is cut off, once, to a multiple of 2**-55 (`GRID`), and
summed in a 64-bit word. Where a sum could leave the word, its block gets a second word an element.
What always holds: the sum is that of the cut products, whatever their order, and which blocks have
a second word changes no bit of the mean.
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
_ROOM = 2.0**62  # magnitude that the first word may reach


MANY = 1 << 23
"""Elements of a model for which the compiled inner loops are worth their start."""


@lru_cache
def find_compiled(name: str = "compiled") -> ModuleType | None:
    """A module of compiled inner loops, or None where numba is not installed."""
    try:
        # Half a second and 125 MB, which only who sums much has to spend.
        return import_module(f"consortium.aggregation.{name}")
    except ImportError:
        return None


class Scratch:
    """Memory of one thread for one block."""

    def __init__(self) -> None:
        self.singles = np.empty(BLOCK, np.float32)
        self.words = np.empty(BLOCK, np.int64)


class ExactSum:
    """The sum of one tensor of floating-point numbers.

    Args:
        size: elements.
        bound: magnitude that elements may have, at most 2**16.
        compiled: whether to use numba where it is installed.
    """

    def __init__(self, size: int, bound: float, *, compiled: bool = True):
        self._words = np.zeros(size, np.int64)
        self._more: dict[int, NDArray[np.int64]] = {}
        self._bound = bound
        self._compiled = find_compiled() if compiled else None
        self.blocks = -(-size // BLOCK)
        self._load = np.zeros(self.blocks)  # what the magnitude of a block's words may be

    def add(self, block: int, values: NDArray[np.floating], weight: int, use: Scratch) -> None:
        """Adds a block of a tensor, times a weight.

        Args:
            block: its number.
            values: of the block, float32 or float64.
            weight: a whole number of magnitude below 2**27; negative to take back.
            use: memory.

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
            self._compiled.take_away(values, factor, words)
        else:
            # NaN comes out of both.
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
        cut = use.words[: values.size]
        # In double precision, which is exact here, and then cut towards zero.
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
        """Writes the sum over a total.

        Args:
            total: above 0.
            out: flat, of any floating-point dtype.
        """
        for block in range(self.blocks):
            if block in self._more:
                self._carry(block)
            place = slice(block * BLOCK, (block + 1) * BLOCK)
            mean = self._words[place].astype(np.float64)
            if block in self._more:
                mean += self._more[block] * 2.0**_CARRY
            mean *= 1 / _UNITS
            mean /= total
            out[place] = torch.from_numpy(mean)

    def reset(self) -> None:
        """Sums nothing, and keeps the memory."""
        self._words.fill(0)
        self._load.fill(0)
        for more in self._more.values():
            more.fill(0)
