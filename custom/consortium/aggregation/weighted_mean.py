"""The mean of the hospitals' changes, weighted by their training cases.

FedAvg (McMahan et al., AISTATS 2017, algorithm 1): `sum(n_k * x_k) / sum(n_k)`. Use it for honest
hospitals of any size. It does not stop a hospital that sends a large but valid change, which moves
the model in proportion to its cases.

Sums are exact (`exact_sum`), so the order of arrival cannot matter, and an update can be removed
again.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from consortium.aggregation.exact_sum import MANY, ExactSum, Scratch
from consortium.aggregation.rule import BLOCK, Aggregate, InvalidUpdate
from consortium.protocol.schema import ModelSchema, Reduction, State, shared_tensors
from consortium.protocol.update import MAX_CHANGE

OPTIONS: dict[str, None] = {}
"""See `consortium.settings.rules`. This rule has none, because it sees one update at a time."""

MAX_TOTAL_CASES = 2**27
"""The sum of weights stays below this, so that no sum can overflow."""
MAX_INTEGER_CHANGE = 2**35
"""Largest magnitude of an element of an integer tensor."""

_SMALL = 1 << 14
"""Largest number of elements of a tensor that is summed together with others: a network has dozens
of small tensors, and a call for each costs more than its sum."""

BlockIndex = tuple[int, int]
"""The number of a group and of a block in it."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Tensors of one dtype that are summed together: one, or several small ones within a block.

    Attributes:
        names: names of the tensors, in the order of the schema.
        sizes: numbers of their elements.
        sum: sum of the concatenated tensors.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    sum: ExactSum


class WeightedMean:
    """Streaming weighted mean with exact sums.

    Range: magnitudes up to 2**16 with weights that sum up to 2**27, which is more than 1,000
    hospitals of 100,000 cases. Resolution: the mean of n updates is off by less than
    `n * 2**-55 / sum(n_k)` and the rounding to the tensor's dtype. Memory: 8 bytes an element for
    any number of hospitals, and 8 more in blocks with a weighted sum above 128; kept between
    rounds. Integer tensors become their mean, rounded half up.

    Args:
        schema: schema of the model; only shared tensors are averaged.
        max_change: an element of larger magnitude is refused; at most 2**16.
        threads: number of threads that share the work.
        compiled: whether to use numba if it is installed; by default for models of more than 8M
            elements, for which it is worth its start. The bytes are the same.
    """

    buffers_updates = False
    needs_plain_updates = False

    def __init__(
        self,
        schema: ModelSchema,
        *,
        max_change: float = MAX_CHANGE,
        threads: int = 1,
        compiled: bool | None = None,
    ):
        self._schema, self._max_change = shared_tensors(schema), max_change
        sizes = {name: math.prod(spec.shape) for name, spec in self._schema.items()}
        if compiled is None:
            compiled = sum(sizes.values()) > MANY
        self._groups = [
            _Group(
                names,
                tuple(sizes[name] for name in names),
                ExactSum(sum(sizes[name] for name in names), max_change, compiled=compiled),
            )
            for names in _group(self._schema, sizes)
        ]
        self._integers = {
            name: np.zeros(sizes[name], np.int64)
            for name, spec in self._schema.items()
            if spec.reduction is Reduction.INTEGER
        }
        blocks = [
            (number, block)
            for number, group in enumerate(self._groups)
            for block in range(group.sum.blocks)
        ]
        share = max(1, -(-len(blocks) // threads))
        self._shares = [blocks[start : start + share] for start in range(0, len(blocks), share)]
        self._scratch = [Scratch() for _ in self._shares]
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self.total_cases = 0

    def add(self, hospital: str, tensors: State, cases: int) -> None:
        """Adds an update; see `AggregationRule`."""
        if self.total_cases + cases >= MAX_TOTAL_CASES:
            raise InvalidUpdate("out-of-range")
        integers = {name: _integers(name, tensors) for name in self._integers}
        done = self._add(tensors, cases, self._shares)
        errors = [error for _, error in done if error is not None]
        if errors:
            self._add(
                tensors,
                -cases,
                [share[:count] for share, (count, _) in zip(self._shares, done, strict=True)],
            )
            raise errors[0]
        for name, values in integers.items():
            self._integers[name] += values * cases
        self.total_cases += cases

    def remove(self, tensors: State, cases: int) -> None:
        """Undoes `add` of the same update exactly."""
        self._add(tensors, -cases, self._shares)
        for name, total in self._integers.items():
            total -= _integers(name, tensors) * cases
        self.total_cases -= cases

    def _add(
        self, tensors: State, weight: int, shares: Sequence[Sequence[BlockIndex]]
    ) -> list[tuple[int, InvalidUpdate | None]]:
        """Adds blocks; returns for each share the number of added blocks and the error, if any."""

        def work(share: Sequence[BlockIndex], scratch: Scratch) -> tuple[int, InvalidUpdate | None]:
            # Overflow and NaN are checked for, so numpy need not warn.
            with np.errstate(all="ignore"):
                for number, (index, block) in enumerate(share):
                    group = self._groups[index]
                    flat = [tensors[name].reshape(-1) for name in group.names]
                    values = (
                        _block(flat[0], block, scratch) if len(flat) == 1 else _join(flat, scratch)
                    )
                    try:
                        group.sum.add(block, values, weight, scratch)
                    except InvalidUpdate as error:
                        return number, _first_at_fault(error, group, values, self._max_change)
            return len(share), None

        run = map if self._pool is None else self._pool.map
        return list(run(work, shares, self._scratch))

    def aggregate(self) -> Aggregate:
        """Returns the weighted mean; see `AggregationRule`."""
        if not self.total_cases:
            raise ZeroDivisionError("the mean of no updates")
        total = self.total_cases
        means: dict[str, torch.Tensor] = {}
        for group in self._groups:
            flat = torch.empty(sum(group.sizes), dtype=self._schema[group.names[0]].dtype)
            group.sum.mean(total, flat)
            parts = flat.split(group.sizes)  # type: ignore[no-untyped-call]
            means |= zip(group.names, parts, strict=True)
        for name, values in self._integers.items():
            half_up = (2 * values + total) // (2 * total)
            means[name] = torch.from_numpy(half_up).to(self._schema[name].dtype)
        return Aggregate(
            {name: means[name].reshape(spec.shape) for name, spec in self._schema.items()}
        )

    def reset(self) -> None:
        """Discards all updates and keeps the memory."""
        if not self.total_cases:
            return
        for group in self._groups:
            group.sum.reset()
        for total in self._integers.values():
            total.fill(0)
        self.total_cases = 0


def _group(schema: ModelSchema, sizes: Mapping[str, int]) -> Iterator[tuple[str, ...]]:
    """Yields the names of the tensors to average, by group."""
    small: dict[torch.dtype, list[str]] = {}
    for name, spec in schema.items():
        if spec.reduction is not Reduction.MEAN:
            continue
        if sizes[name] > _SMALL or spec.dtype not in (torch.float32, torch.float64):
            yield (name,)
            continue
        names = small.setdefault(spec.dtype, [])
        if sum(sizes[other] for other in names) + sizes[name] > BLOCK:
            yield tuple(names)
            names.clear()
        names.append(name)
    yield from (tuple(names) for names in small.values() if names)


def _join(flat: Sequence[torch.Tensor], scratch: Scratch) -> NDArray[np.floating]:
    """Concatenates small tensors, in the thread's memory if they are float32."""
    if flat[0].dtype is not torch.float32:
        return torch.cat(list(flat)).numpy()
    count = sum(part.numel() for part in flat)
    joined = torch.from_numpy(scratch.singles)[:count]
    return torch.cat(list(flat), out=joined).numpy()


def _first_at_fault(
    error: InvalidUpdate, group: _Group, values: NDArray[np.floating], max_change: float
) -> InvalidUpdate:
    """Returns the error of the first invalid tensor of a group, with its own code."""
    if len(group.names) == 1:
        return InvalidUpdate(error.code, group.names[0])
    parts = np.split(values, np.cumsum(group.sizes)[:-1])
    for name, part in zip(group.names, parts, strict=True):
        if not np.isfinite(part).all():
            return InvalidUpdate("not-finite", name)
        if part.size and float(np.abs(part).max()) > max_change:
            return InvalidUpdate("too-large", name)
    return error


def _block(flat: torch.Tensor, block: int, scratch: Scratch) -> NDArray[np.floating]:
    part = flat[block * BLOCK : (block + 1) * BLOCK]
    if part.dtype in (torch.float32, torch.float64):
        return part.numpy()
    single = scratch.singles[: part.numel()]
    torch.from_numpy(single).copy_(part)
    return single


def _integers(name: str, tensors: State) -> NDArray[np.int64]:
    values = tensors[name].reshape(-1).to(torch.int64).numpy()
    if values.size and max(-int(values.min()), int(values.max())) > MAX_INTEGER_CHANGE:
        raise InvalidUpdate("out-of-range", name)
    return values
