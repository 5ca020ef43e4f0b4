"""Rules that look at every coordinate by itself, a block of all hospitals' at a time."""

import math
from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from consortium.aggregation import exact_sum
from consortium.aggregation.rule import STEPS, Collected, Factors, Weights, as_floats
from consortium.aggregation.sorting import Quantiles, Row, quantile_ranks, sort_rows, step_places
from consortium.update import Layout, State

_MOST = 2**31 - 1  # sum of weights
_CACHED = 1 << 20  # values of all hospitals' blocks together
_SHORTEST, _LONGEST = 1 << 12, 1 << 16  # coordinates of a block


class Coordinates(Collected):
    """A rule over quantiles of each coordinate, which cannot say what a hospital counted for."""

    def _combine(
        self, layout: Layout, states: Sequence[State], weights: Weights
    ) -> tuple[dict[str, Tensor], Factors | None]:
        size = sum(math.prod(entry.shape) for entry in layout.values())
        place = Workplace(whole_weights(weights), compiled=size > exact_sum.MANY)
        wanted = self._weights_above(place)
        combined = {}
        for name, entry in layout.items():
            rows = [as_floats(state[name]).astype(np.float32, copy=False) for state in states]
            result = torch.empty(rows[0].size, dtype=entry.dtype)
            for start in range(0, rows[0].size, place.block):
                block = slice(start, start + place.block)
                place.fill([row[block] for row in rows], wanted)
                result[block] = torch.from_numpy(self._of_block(place))
            combined[name] = result.reshape(entry.shape)
        return combined, None

    @abstractmethod
    def _weights_above(self, place: "Workplace") -> Sequence[int]:
        """The weights above the quantiles that the rule needs."""

    @abstractmethod
    def _of_block(self, place: "Workplace") -> Row:
        """Combines the block that the place is filled with."""


class Workplace:
    """A block of coordinates of all hospitals, sorted as far as needed.

    Args:
        weights: of the hospitals, whole numbers.
        compiled: whether to sort with numba where it is installed; the bytes are the same.

    Attributes:
        weights: the same.
        total: of the weights.
        rows: the block, one row a hospital.
        block: largest number of coordinates.
        one, other: rows to use.
    """

    def __init__(self, weights: Sequence[int], *, compiled: bool = False):
        self.weights, self.total = weights, sum(weights)
        self.block = min(max(_CACHED // len(weights), _SHORTEST), _LONGEST)
        self.rows: list[Row] = []
        self._sorted: list[Row] = []
        self._compiled = exact_sum.find_compiled() if compiled else None
        self._quantiles = Quantiles(weights, self.block)
        self._memory = np.empty((len(weights) + 1, self.block), np.float32)
        self.one, self.other = np.empty((2, self.block), np.float32)

    def fill(self, rows: list[Row], wanted: Sequence[int]) -> None:
        """Takes a block.

        Args:
            rows: one a hospital, left as they are.
            wanted: weights above the quantiles that will be asked for.
        """
        self.rows, size = rows, rows[0].size
        copies = [place[:size] for place in self._memory]
        for copy, row in zip(copies, rows, strict=False):
            np.add(row, np.float32(0), out=copy)  # there is one zero then, not two
        ranks = frozenset(rank for above in wanted for rank in quantile_ranks(self.weights, above))
        if self._compiled is None:
            self._sorted = sort_rows(copies[:-1], copies[-1], ranks)
        else:
            self._compiled.sort_rows(self._memory, size, step_places(len(rows), ranks))
            self._sorted = copies[:-1]

    def quantile(self, above: int) -> Row:
        """The smallest value with at most so much weight above it; see `Quantiles.find`."""
        ranks = quantile_ranks(self.weights, above)
        return self._quantiles.find(self.rows, self._sorted, ranks, above)

    def is_one_rank(self, above: int) -> bool:
        """Whether a quantile has the same rank everywhere, so that it costs no search."""
        return len(quantile_ranks(self.weights, above)) == 1

    def average_with_next(self, values: Row, above: int) -> None:
        """Takes the mean with the next larger value where exactly so much weight is above."""
        [places] = np.nonzero(self._quantiles.above(self.rows, values) == above)
        if places.size:
            here, every = values[places], np.stack([row[places] for row in self.rows])
            larger = np.where(every > here, every, np.float32(np.inf)).min(axis=0)
            values[places] = (here + larger) * np.float32(0.5)


def whole_weights(weights: Weights) -> list[int]:
    """Weights as whole numbers without a common divisor, whose sum is below 2**31.

    They are exact, but for sums beyond that: then off by one part in 2**31 of the sum.
    """
    whole = np.rint(weights * STEPS).astype(np.int64)
    whole //= np.gcd.reduce(whole)
    if whole.sum() > _MOST - len(whole):
        whole = np.maximum(whole * ((_MOST - len(whole)) / whole.sum()), 1).astype(np.int64)
    return [int(weight) for weight in whole]
