"""Rules that combine every coordinate separately.

The numpy version works on blocks of all hospitals' coordinates. Large models use one compiled pass,
which also computes the distances, if numba is installed. Both give the same bytes.
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
from consortium.aggregation.rule import STEPS, BufferedRule, Factors, Weights, as_floats
from consortium.aggregation.sorting import Quantiles, Row, quantile_ranks, sort_rows, step_table
from consortium.protocol.schema import ModelSchema, State
from consortium.protocol.update import MAX_CHANGE

_MAX_WEIGHT = 2**31 - 1  # sum of all weights
_CACHED = 1 << 20  # values of all hospitals' blocks together
_SHORTEST, _LONGEST = 1 << 12, 1 << 16  # coordinates of a block
_COMPILED = "compiled_coordinates"
_TILE = 1 << 15  # bytes of all hospitals' coordinates in a tile of the compiled pass
_NARROWEST, _WIDEST = 32, 256  # coordinates of a tile


class Coordinates(BufferedRule):
    """A rule over two quantiles of each coordinate; it cannot compute a hospital's influence.

    The result is the first factor times the sum of the quantiles. If the rule has more factors, the
    hospitals' values, clipped to the quantiles, are added with one factor each.
    """

    def __init__(
        self, schema: ModelSchema, *, max_change: float = MAX_CHANGE, max_share: float = 1.0
    ):
        super().__init__(schema, max_change=max_change, max_share=max_share)
        self._computed: dict[str, NDArray[np.float64]] = {}

    def _combine(
        self, schema: ModelSchema, states: Sequence[State], weights: Weights
    ) -> tuple[dict[str, Tensor], Factors | None]:
        size = sum(math.prod(spec.shape) for spec in schema.values())
        compiled = exact_sum.find_compiled(_COMPILED) if size > exact_sum.MANY else None
        whole = whole_weights(weights)
        above, factors = self._weights_above(sum(whole)), self._factors(whole)
        worker: SortedBlock | CompiledPass = (
            SortedBlock(whole)
            if compiled is None
            else CompiledPass(compiled, whole, above, factors)
        )
        combined = {}
        for name, spec in schema.items():
            rows = [np.require(as_floats(state[name]), np.float32, ["C", "A"]) for state in states]
            result = np.empty(rows[0].size, np.float32)
            if isinstance(worker, CompiledPass):
                squared = worker.combine(rows, result)
                if spec.dtype is torch.float32:
                    self._computed[name] = squared
            else:
                self._by_blocks(worker, rows, above, result)
            combined[name] = torch.from_numpy(result).to(spec.dtype).reshape(spec.shape)
        return combined, None

    def _by_blocks(
        self, block: "SortedBlock", rows: list[Row], above: Sequence[int], result: Row
    ) -> None:
        for start in range(0, result.size, block.length):
            span = slice(start, start + block.length)
            block.fill([row[span] for row in rows], above)
            np.add(self._of_block(block), np.float32(0), out=result[span])  # -0 becomes 0

    def _squared_distances(
        self, name: str, middle: Tensor, states: Sequence[State]
    ) -> NDArray[np.float64]:
        computed = self._computed.pop(name, None)
        return super()._squared_distances(name, middle, states) if computed is None else computed

    @abstractmethod
    def _weights_above(self, total: int) -> tuple[int, int]:
        """Returns the weights above the lower and the higher quantile that the rule needs."""

    @abstractmethod
    def _factors(self, weights: Sequence[int]) -> Row:
        """Returns the factors; see the class."""

    @abstractmethod
    def _of_block(self, block: "SortedBlock") -> Row:
        """Combines the values of a block."""


class CompiledPass:
    """Combines tensors with the compiled loops.

    Args:
        compiled: the compiled module.
        weights: weights of the hospitals, whole numbers with a sum below 2**31.
        above: weights above the lower and the higher quantile.
        factors: see `Coordinates`.
    """

    def __init__(
        self, compiled: ModuleType, weights: Sequence[int], above: tuple[int, int], factors: Row
    ):
        self._compiled, self._factors, count = compiled, factors, len(weights)
        self._weights, self._above = np.array(weights, np.int32), np.array(above, np.int32)
        ranks = [quantile_ranks(weights, weight) for weight in above]
        self._ranks = np.array([candidates[0] for candidates in ranks], np.int64)
        self._by_rank = max(map(len, ranks)) == 1
        wanted = self._ranks.tolist() if self._by_rank else range(self._ranks.min(), count)
        self._steps = step_table(count, frozenset(wanted))
        values = _TILE // (4 if self._by_rank else 8) // count
        self._lane = min(max(values & -16, _NARROWEST), _WIDEST)

    def combine(self, rows: Sequence[Row], out: Row) -> NDArray[np.float64]:
        """Combines a tensor.

        Args:
            rows: values of the hospitals, each contiguous in memory.
            out: receives the result.

        Returns:
            The squared distance of each hospital's values from the result.
        """
        addresses = np.array([row.ctypes.data for row in rows], np.int64)
        compiled, last = self._compiled, (self._factors, self._lane, out)
        squared: NDArray[np.float64]
        if self._by_rank:
            squared = compiled.combine_by_rank(addresses, self._steps, self._ranks, *last)
        else:
            lowest = self._ranks.min()
            squared = compiled.combine_by_weight(
                addresses, self._weights, self._steps, lowest, self._above, *last
            )
        return squared


class SortedBlock:
    """A block of coordinates of all hospitals, sorted as far as needed.

    Args:
        weights: weights of the hospitals, whole numbers.

    Attributes:
        weights: the same.
        total: sum of the weights.
        rows: the block, one row a hospital.
        length: largest number of coordinates.
        spare, other_spare: rows for intermediate results.
    """

    def __init__(self, weights: Sequence[int]):
        self.weights, self.total = weights, sum(weights)
        self.length = min(max(_CACHED // len(weights), _SHORTEST), _LONGEST)
        self.rows: list[Row] = []
        self._sorted: list[Row] = []
        self._quantiles = Quantiles(weights, self.length)
        self._memory = np.empty((len(weights) + 1, self.length), np.float32)
        self.spare, self.other_spare = np.empty((2, self.length), np.float32)

    def fill(self, rows: list[Row], wanted: Sequence[int]) -> None:
        """Loads and sorts a block.

        Args:
            rows: one a hospital; not changed.
            wanted: weights above the quantiles that will be read.
        """
        self.rows, size = rows, rows[0].size
        copies = [buffer[:size] for buffer in self._memory]
        for copy, row in zip(copies, rows, strict=False):
            np.add(row, np.float32(0), out=copy)  # -0 becomes 0
        ranks = frozenset(rank for above in wanted for rank in quantile_ranks(self.weights, above))
        self._sorted = sort_rows(copies[:-1], copies[-1], ranks)

    def quantile(self, above: int) -> Row:
        """Returns the smallest value with at most this weight above it; see `Quantiles.find`."""
        ranks = quantile_ranks(self.weights, above)
        return self._quantiles.find(self.rows, self._sorted, ranks, above)

    def is_one_rank(self, above: int) -> bool:
        """Whether a quantile has the same rank at every coordinate, so it needs no search."""
        return len(quantile_ranks(self.weights, above)) == 1

    def average_with_next(self, values: Row, above: int) -> None:
        """Averages values with the next larger value if exactly this weight is above them."""
        [positions] = np.nonzero(self._quantiles.above(self.rows, values) == above)
        if positions.size:
            here, every = values[positions], np.stack([row[positions] for row in self.rows])
            larger = np.where(every > here, every, np.float32(np.inf)).min(axis=0)
            values[positions] = (here + larger) * np.float32(0.5)


def whole_weights(weights: Weights) -> list[int]:
    """Converts weights to whole numbers without a common divisor, whose sum is below 2**31.

    They are exact unless the sum would be larger; then they are off by one part in 2**31 of it.
    """
    whole = np.rint(weights * STEPS).astype(np.int64)
    whole //= np.gcd.reduce(whole)
    if whole.sum() > _MAX_WEIGHT - len(whole):
        whole = np.maximum(whole * ((_MAX_WEIGHT - len(whole)) / whole.sum()), 1).astype(np.int64)
    return [int(weight) for weight in whole]
