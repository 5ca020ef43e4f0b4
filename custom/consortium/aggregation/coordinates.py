"""Rules that look at every coordinate by itself, a block of all hospitals' at a time."""

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consortium.aggregation.rule import STEPS, Collected, Factors, Weights, as_floats
from consortium.aggregation.sorting import mark_rows
from consortium.update import Layout, State

_CACHED = 1 << 19  # bytes of all hospitals' blocks together


class Workplace:
    """Memory for one block, and what all blocks have in common.

    Args:
        weights: of the hospitals.
        block: coordinates.

    Attributes:
        weights: in whole numbers, without a common divisor.
        total: of the weights.
        ties: whether some hospitals can hold exactly half of the weight.
        double, double_too, third, words, truth: memory to use.
    """

    def __init__(self, weights: Weights, block: int):
        whole = np.rint(weights * STEPS).astype(np.int64)
        self.weights = whole // np.gcd.reduce(whole)
        self.total = int(self.weights.sum())
        self.ties = self.total % 2 == 0
        self.equal = bool((self.weights == 1).all())
        self.block = block
        rows = len(weights) + 1
        self.double, self.double_too, self.third = np.empty((3, block))
        self.words = np.empty((2, block), np.int64)
        self.truth = np.empty(block, np.bool_)
        self._singles = np.empty((rows, block), np.float32)
        self._doubles = np.empty((0 if self.equal else rows, block))

    def marked(self, rows: list[NDArray[np.float32]]) -> list[NDArray[np.float64]]:
        """Copies of the rows, marked with the weights."""
        return mark_rows(rows, self.weights.tolist(), self._doubles)

    def copied(self, rows: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Copies of the rows."""
        copies = [place[: row.size] for place, row in zip(self._singles, rows, strict=False)]
        for copy, row in zip(copies, rows, strict=True):
            copy[:] = row
        return copies

    @property
    def spare_single(self) -> NDArray[np.float32]:
        """One row more."""
        single: NDArray[np.float32] = self._singles[-1]
        return single

    @property
    def spare_double(self) -> NDArray[np.float64]:
        """One row of doubles more."""
        double: NDArray[np.float64] = self._doubles[-1]
        return double


class Coordinates(Collected):
    """A rule over each coordinate, which cannot say what a hospital counted for as a whole."""

    def _combine(
        self, layout: Layout, states: Sequence[State], weights: Weights
    ) -> tuple[dict[str, Tensor], Factors | None]:
        place = Workplace(weights, max(1 << 10, _CACHED // (8 * len(states))))
        combined = {}
        for name, entry in layout.items():
            # Doubles have no bits to spare for a weight.
            rows = [as_floats(state[name]).astype(np.float32, copy=False) for state in states]
            result = torch.empty(rows[0].size, dtype=entry.dtype)
            for start in range(0, rows[0].size, place.block):
                block = slice(start, start + place.block)
                parts = [row[block] for row in rows]
                found: NDArray[np.floating] = (
                    self._equal(place.copied(parts), place)
                    if place.equal
                    else self._weighted(place.marked(parts), place)
                )
                result[block] = torch.from_numpy(found)
            combined[name] = result.reshape(entry.shape)
        return combined, None

    @abstractmethod
    def _equal(self, rows: list[NDArray[np.float32]], place: Workplace) -> NDArray[np.floating]:
        """Combines a block of hospitals that weigh the same."""

    @abstractmethod
    def _weighted(self, rows: list[NDArray[np.float64]], place: Workplace) -> NDArray[np.float64]:
        """Combines a block of marked rows."""
