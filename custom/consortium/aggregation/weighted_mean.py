"""The mean of the hospitals' changes, weighted by their training cases.

FedAvg (McMahan et al., AISTATS 2017, algorithm 1): `sum(n_k * x_k) / sum(n_k)`. When to use it:
hospitals that are honest, whatever their sizes. What it does not stop: a hospital that sends a
large but valid change; it moves the model in proportion to its cases.

Sums are exact (`exact_sum`), so that the order of arrival cannot matter, and an update that was
taken can be taken back.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

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

Place = tuple[str, int]
"""A tensor's name and a block of it."""


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
        self._schema = shared_tensors(schema)
        sizes = {name: int(np.prod(each.shape)) for name, each in self._schema.items()}
        if compiled is None:
            compiled = sum(sizes.values()) > MANY
        self._sums = {
            name: ExactSum(sizes[name], max_change, compiled=compiled)
            for name, spec in self._schema.items()
            if spec.reduction is Reduction.MEAN
        }
        self._integers = {
            name: np.zeros(sizes[name], np.int64)
            for name, spec in self._schema.items()
            if spec.reduction is Reduction.INTEGER
        }
        places = [
            (name, block) for name, each in self._sums.items() for block in range(each.blocks)
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
                for number, (name, block) in enumerate(share):
                    try:
                        values = _block(tensors[name].reshape(-1), block, use)
                        self._sums[name].add(block, values, weight, use)
                    except InvalidUpdate as error:
                        return number, InvalidUpdate(error.code, name)
            return len(share), None

        run = map if self._pool is None else self._pool.map
        return list(run(work, shares, self._scratch))

    def aggregate(self) -> Aggregate:
        """The weighted mean; see `AggregationRule`."""
        if not self.total_cases:
            raise ZeroDivisionError("the mean of no updates")
        total = self.total_cases
        means = {}
        for name, spec in self._schema.items():
            if name in self._integers:
                half_up = (2 * self._integers[name] + total) // (2 * total)
                mean = torch.from_numpy(half_up).to(spec.dtype)
            else:
                mean = torch.empty(int(np.prod(spec.shape)), dtype=spec.dtype)
                self._sums[name].mean(total, mean)
            means[name] = mean.reshape(spec.shape)
        return Aggregate(means)

    def reset(self) -> None:
        """Forgets all updates and keeps the memory."""
        if not self.total_cases:
            return
        for each in self._sums.values():
            each.reset()
        for total in self._integers.values():
            total.fill(0)
        self.total_cases = 0


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
