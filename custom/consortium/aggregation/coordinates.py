"""Rules that look at every coordinate by itself.

A block of all hospitals' coordinates at a time with numpy; large models, where numba is installed,
in one compiled pass that also finds the distances. Both ways give the same bytes.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consortium.aggregation import exact_sum
from consortium.aggregation.rule import STEPS, Collected, Factors, Weights, as_floats
from consortium.aggregation.sorting import Quantiles, Row, quantile_ranks, sort_rows, step_table
from consortium.protocol.schema import ModelSchema, State
from consortium.protocol.update import MAX_CHANGE

_MOST = 2**31 - 1  # sum of weights
_CACHED = 1 << 20  # values of all hospitals' blocks together
_SHORTEST, _LONGEST = 1 << 12, 1 << 16  # coordinates of a block
_COMPILED = "compiled_coordinates"
_TILE = 1 << 15  # bytes of all hospitals' coordinates that are worked on in the compiled pass
_NARROWEST, _WIDEST = 32, 256  # coordinates of a tile


class Coordinates(Collected):
    """A rule over two quantiles of each coordinate; it cannot say what a hospital counted for.

    The result is a factor times the quantiles' sum and, where a rule has more factors, one of each
    hospital's value, no further out than the quantiles.
    """

    def __init__(
        self, schema: ModelSchema, *, max_change: float = MAX_CHANGE, max_share: float = 1.0
    ):
        super().__init__(schema, max_change=max_change, max_share=max_share)
        self._found: dict[str, NDArray[np.float64]] = {}

    def _combine(
        self, schema: ModelSchema, states: Sequence[State], weights: Weights
    ) -> tuple[dict[str, Tensor], Factors | None]:
        size = sum(math.prod(spec.shape) for spec in schema.values())
        compiled = exact_sum.find_compiled(_COMPILED) if size > exact_sum.MANY else None
        whole = whole_weights(weights)
        above, factors = self._weights_above(sum(whole)), self._factors(whole)
        place = Workplace(whole) if compiled is None else OnePass(compiled, whole, above, factors)
        combined = {}
        for name, spec in schema.items():
            rows = [np.require(as_floats(state[name]), np.float32, ["C", "A"]) for state in states]
            result = np.empty(rows[0].size, np.float32)
            if isinstance(place, OnePass):
                squared = place.combine(rows, result)
                if spec.dtype is torch.float32:
                    self._found[name] = squared
            else:
                self._by_blocks(place, rows, above, result)
            combined[name] = torch.from_numpy(result).to(spec.dtype).reshape(spec.shape)
        return combined, None

    def _by_blocks(
        self, place: "Workplace", rows: list[Row], above: Sequence[int], result: Row
    ) -> None:
        for start in range(0, result.size, place.block):
            block = slice(start, start + place.block)
            place.fill([row[block] for row in rows], above)
            np.add(self._of_block(place), np.float32(0), out=result[block])  # one zero, not two

    def _squared_distances(
        self, name: str, middle: Tensor, states: Sequence[State]
    ) -> NDArray[np.float64]:
        found = self._found.pop(name, None)
        return super()._squared_distances(name, middle, states) if found is None else found

    @abstractmethod
    def _weights_above(self, total: int) -> tuple[int, int]:
        """The weights above the lower and the higher quantile that the rule needs."""

    @abstractmethod
    def _factors(self, weights: Sequence[int]) -> Row:
        """See the class."""

    @abstractmethod
    def _of_block(self, place: "Workplace") -> Row:
        """Combines the block that the place is filled with."""


class OnePass:
    """Combines tensors with the compiled loops.

    Args:
        compiled: the module.
        weights: of the hospitals, whole numbers with a sum below 2**31.
        above: weights above the lower and the higher quantile.
        factors: see `Coordinates`.
    """

    def __init__(
        self, compiled: ModuleType, weights: Sequence[int], above: tuple[int, int], factors: Row
    ):
        self._compiled, self._factors, count = compiled, factors, len(weights)
        self._weights, self._above = np.array(weights, np.int32), np.array(above, np.int32)
        found = [quantile_ranks(weights, each) for each in above]
        self._ranks = np.array([ranks[0] for ranks in found], np.int64)
        self._by_rank = max(map(len, found)) == 1
        wanted = self._ranks.tolist() if self._by_rank else range(self._ranks.min(), count)
        self._steps = step_table(count, frozenset(wanted))
        values = _TILE // (4 if self._by_rank else 8) // count
        self._lane = min(max(values & -16, _NARROWEST), _WIDEST)

    def combine(self, rows: Sequence[Row], out: Row) -> NDArray[np.float64]:
        """Combines a tensor.

        Args:
            rows: of the hospitals, each in one piece.
            out: the result.

        Returns:
            The squared distance of each hospital from it.
        """
        places = np.array([row.ctypes.data for row in rows], np.int64)
        use, last = self._compiled, (self._factors, self._lane, out)
        squared: NDArray[np.float64]
        if self._by_rank:
            squared = use.combine_by_rank(places, self._steps, self._ranks, *last)
        else:
            lowest = self._ranks.min()
            squared = use.combine_by_weight(
                places, self._weights, self._steps, lowest, self._above, *last
            )
        return squared


class Workplace:
    """A block of coordinates of all hospitals, sorted as far as needed.

    Args:
        weights: of the hospitals, whole numbers.

    Attributes:
        weights: the same.
        total: of the weights.
        rows: the block, one row a hospital.
        block: largest number of coordinates.
        one, other: rows to use.
    """

    def __init__(self, weights: Sequence[int]):
        self.weights, self.total = weights, sum(weights)
        self.block = min(max(_CACHED // len(weights), _SHORTEST), _LONGEST)
        self.rows: list[Row] = []
        self._sorted: list[Row] = []
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
        self._sorted = sort_rows(copies[:-1], copies[-1], ranks)

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
