"""The mean of the hospitals' changes, weighted by their training cases.

FedAvg (McMahan et al., AISTATS 2017, algorithm 1): `sum(n_k * x_k) / sum(n_k)`. When to use it:
hospitals that are honest, whatever their sizes. What it does not stop: a hospital that sends a
large but valid change; it moves the model in proportion to its cases.

Sums are exact (`exact_sum`), so that the order of arrival cannot matter, and an update that was
taken can be taken back.
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
"""See `consortium.settings.rules`: none, for this rule sees one update at a time."""

MAX_TOTAL_CASES = 2**27
"""The sum of weights stays below; then no sum can overflow."""
MAX_INTEGER_CHANGE = 2**35
"""Largest magnitude of an element of an integer tensor."""

_SMALL = 1 << 14
"""Elements of a tensor up to which it is summed together with others: a network has dozens of such,
and a call for each costs more than its sum."""

Place = tuple[int, int]
"""A group's number and a block of it."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Tensors of one dtype that are summed together: one, or small ones that fill a block at most.

    Attributes:
        names: of the tensors, in the order of the schema.
        sizes: their elements.
        sum: of them, one after the other.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    sum: ExactSum


class WeightedMean:
    """Streaming weighted mean with exact sums.

    Range: magnitudes up to 2**16 with weights that sum up to 2**27, which is more than 1,000
    hospitals of 100,000 cases. Resolution: the mean of n updates is off by less than
    `n * 2**-55 / sum(n_k)` and the rounding to the tensor's dtype. Memory: 8 bytes an element,
    however many hospitals, and 8 more in blocks where a weighted sum passes 128; kept between
    rounds. Integer tensors become their mean, rounded half up.

    Args:
        schema: of the model; only tensors that cross are averaged.
        max_change: an element of larger magnitude is refused; at most 2**16.
        threads: that share the work.
        compiled: whether to use numba where it is installed; by default for models of more than
            8M elements, for which it is worth its start. The bytes are the same.
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
        sizes = {name: math.prod(each.shape) for name, each in self._schema.items()}
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
        places = [
            (number, block)
            for number, group in enumerate(self._groups)
            for block in range(group.sum.blocks)
        ]
        share = max(1, -(-len(places) // threads))
        self._shares = [places[start : start + share] for start in range(0, len(places), share)]
        self._scratch = [Scratch() for _ in self._shares]
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self.total_cases = 0

    def add(self, hospital: str, tensors: State, cases: int) -> None:
        """Takes an update; see `AggregationRule`."""
        if self.total_cases + cases >= MAX_TOTAL_CASES:
            raise InvalidUpdate("out-of-range")
        integers = {name: _integers(name, tensors) for name in self._integers}
        done = self._add(tensors, cases, self._shares)
        unfit = [error for _, error in done if error is not None]
        if unfit:
            self._add(
                tensors,
                -cases,
                [share[:count] for share, (count, _) in zip(self._shares, done, strict=True)],
            )
            raise unfit[0]
        for name, values in integers.items():
            self._integers[name] += values * cases
        self.total_cases += cases

    def take_back(self, tensors: State, cases: int) -> None:
        """Undoes `add` of the same update, exactly."""
        self._add(tensors, -cases, self._shares)
        for name, total in self._integers.items():
            total -= _integers(name, tensors) * cases
        self.total_cases -= cases

    def _add(
        self, tensors: State, weight: int, shares: Sequence[Sequence[Place]]
    ) -> list[tuple[int, InvalidUpdate | None]]:
        """Adds blocks; of each share the number that was added, and what stopped it."""

        def work(share: Sequence[Place], use: Scratch) -> tuple[int, InvalidUpdate | None]:
            # What overflows or is no number is looked for, and is no reason for a warning.
            with np.errstate(all="ignore"):
                for number, (index, block) in enumerate(share):
                    group = self._groups[index]
                    flat = [tensors[name].reshape(-1) for name in group.names]
                    values = _block(flat[0], block, use) if len(flat) == 1 else _join(flat, use)
                    try:
                        group.sum.add(block, values, weight, use)
                    except InvalidUpdate as error:
                        return number, _first_at_fault(error, group, values, self._max_change)
            return len(share), None

        run = map if self._pool is None else self._pool.map
        return list(run(work, shares, self._scratch))

    def aggregate(self) -> Aggregate:
        """The weighted mean; see `AggregationRule`."""
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
        """Forgets all updates and keeps the memory."""
        if not self.total_cases:
            return
        for group in self._groups:
            group.sum.reset()
        for total in self._integers.values():
            total.fill(0)
        self.total_cases = 0


def _group(schema: ModelSchema, sizes: Mapping[str, int]) -> Iterator[tuple[str, ...]]:
    """The names of the tensors to average, by group."""
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


def _join(flat: Sequence[torch.Tensor], use: Scratch) -> NDArray[np.floating]:
    """Small tensors one after the other, in the memory of the thread where that fits them."""
    if flat[0].dtype is not torch.float32:
        return torch.cat(list(flat)).numpy()
    count = sum(part.numel() for part in flat)
    joined = torch.from_numpy(use.singles)[:count]
    return torch.cat(list(flat), out=joined).numpy()


def _first_at_fault(
    error: InvalidUpdate, group: _Group, values: NDArray[np.floating], max_change: float
) -> InvalidUpdate:
    """The error of the first tensor of a group that is not fit, with its own code."""
    if len(group.names) == 1:
        return InvalidUpdate(error.code, group.names[0])
    parts = np.split(values, np.cumsum(group.sizes)[:-1])
    for name, part in zip(group.names, parts, strict=True):
        if not np.isfinite(part).all():
            return InvalidUpdate("not-finite", name)
        if part.size and float(np.abs(part).max()) > max_change:
            return InvalidUpdate("too-large", name)
    return error


def _block(flat: torch.Tensor, block: int, use: Scratch) -> NDArray[np.floating]:
    part = flat[block * BLOCK : (block + 1) * BLOCK]
    if part.dtype in (torch.float32, torch.float64):
        return part.numpy()
    single = use.singles[: part.numel()]
    torch.from_numpy(single).copy_(part)
    return single


def _integers(name: str, tensors: State) -> NDArray[np.int64]:
    values = tensors[name].reshape(-1).to(torch.int64).numpy()
    if values.size and max(-int(values.min()), int(values.max())) > MAX_INTEGER_CHANGE:
        raise InvalidUpdate("out-of-range", name)
    return values
