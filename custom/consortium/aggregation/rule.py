"""What every aggregation rule is: it takes updates one by one and gives the change of the model.

What always holds: the result has the same bytes for every order of arrival, and what a rule did to
a hospital's update is told with it. Rules that must see all updates at once derive from
`Collected`, which holds them until the round closes: that costs a model's memory a hospital.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consortium.protocol.schema import ModelSchema, Reduction, State, TensorSpec, shared_tensors
from consortium.protocol.update import MAX_CHANGE, check_values

BLOCK = 1 << 16
"""Elements that are worked on at a time, so that they stay in the cache."""

Rows = Sequence[NDArray[np.floating]]
"""One tensor of every hospital, flat."""
Weights = NDArray[np.float64]
"""One a hospital, above 0, in cases; multiples of one in `STEPS`."""
STEPS = 1024
Factors = NDArray[np.float64]
"""One a hospital, for a weighted sum of their updates."""


@dataclass(frozen=True, slots=True)
class Treatment:
    """What became of a hospital's update.

    Attributes:
        kept: the weight that it had in the aggregate over the weight of its cases; 1 where it
            counted in full, 0 where not at all. Null where a rule knows no such number.
        distance: L2 distance of its update from the aggregate, over trainable tensors, in units of
            the weighted median of the hospitals' distances; null where that is zero, for the
            aggregate is then the update of those that hold half of the weight.
    """

    kept: float | None
    distance: float | None


@dataclass(frozen=True, slots=True)
class Aggregate:
    """What a rule made of a round.

    Attributes:
        change: by name, in the dtypes and shapes of the schema.
        treatment: of each hospital; empty where all updates count by their cases alone.
    """

    change: dict[str, Tensor]
    treatment: dict[str, Treatment] = field(default_factory=dict)


class InvalidUpdate(Exception):
    """An update that a rule does not take; nothing of it was taken.

    Attributes:
        code: `not-finite`, `too-large` or `out-of-range`.
        tensor: the first at fault in the order of the schema, or empty.
    """

    def __init__(self, code: str, tensor: str = ""):
        self.code, self.tensor = code, tensor
        super().__init__(f"{code} {tensor}".strip())


class AggregationRule(Protocol):
    """A rule, over rounds.

    Attributes:
        buffers_updates: whether updates stay in memory until the round closes.
        needs_plain_updates: whether single updates are inspected, not their sum alone.
    """

    buffers_updates: bool
    needs_plain_updates: bool

    def reset(self) -> None:
        """Forgets all updates and keeps the memory."""

    def add(self, hospital: str, tensors: State, cases: int) -> None:
        """Takes an update, whole or not at all; every element is looked at.

        Args:
            hospital: whose it is; one a hospital.
            tensors: the change of each tensor of the schema that crosses, in its shape and dtype.
            cases: its weight, at least 1.

        Raises:
            InvalidUpdate: a value is not finite, beyond the declared bound or the range of the
                rule.
        """

    def aggregate(self) -> Aggregate:
        """The change of the model.

        Raises:
            ZeroDivisionError: nothing was added.
        """


class Collected(ABC):
    """A rule that sees all updates at once; hospitals come in the order of their names.

    Trainable tensors and buffers (batch-norm statistics) are two groups that are judged apart, for
    the statistics are orders of magnitude larger and would decide alone. Integer tensors become
    their weighted median, rounded half up, which one hospital cannot move far.

    Args:
        schema: of the model; only tensors that cross are aggregated.
        max_change: an element of larger magnitude is refused.
        max_share: no hospital's weight is more than this share of all weights (see `cap_shares`);
            1 for no cap.
    """

    buffers_updates = True
    needs_plain_updates = True

    def __init__(
        self, schema: ModelSchema, *, max_change: float = MAX_CHANGE, max_share: float = 1.0
    ):
        self._schema = shared_tensors(schema)
        self._max_change = max_change
        self._max_share = max_share
        self._taken: dict[str, tuple[State, int]] = {}
        self._groups = [
            names
            for trainable in (True, False)
            if (
                names := [
                    name
                    for name, spec in self._schema.items()
                    if spec.reduction is Reduction.MEAN and spec.trainable == trainable
                ]
            )
        ]

    def reset(self) -> None:
        """Forgets all updates."""
        self._taken = {}

    def add(self, hospital: str, tensors: State, cases: int) -> None:
        """Takes an update; its tensors are held, not copied. See `AggregationRule`."""
        for name, spec in self._schema.items():
            code = check_values(tensors[name], spec, self._max_change)
            if code is not None:
                raise InvalidUpdate(code, name)
        self._taken[hospital] = (tensors, cases)

    def aggregate(self) -> Aggregate:
        """The change of the model; see `AggregationRule`."""
        if not self._taken:
            raise ZeroDivisionError("the aggregate of no updates")
        names = sorted(self._taken)
        states = [self._taken[name][0] for name in names]
        weights = cap_shares([self._taken[name][1] for name in names], self._max_share)
        change: dict[str, Tensor] = {}
        kept: list[Factors] = []
        for group in self._groups:
            schema = {name: self._schema[name] for name in group}
            of_group, influence = self._combine(schema, states, weights)
            change |= of_group
            if influence is not None:
                kept.append(influence)
        for name, spec in self._schema.items():
            if spec.reduction is Reduction.INTEGER:
                change[name] = _integer_median(name, spec, states, weights)
        distances = self._distances(change, states)
        middle = weighted_median(distances, weights)
        cases = np.array([self._taken[name][1] for name in names], np.float64)
        shares = cases / cases.sum()
        treatment = {
            name: Treatment(
                float(min(each[index] for each in kept) / shares[index]) if kept else None,
                float(distances[index] / middle) if middle else None,
            )
            for index, name in enumerate(names)
        }
        return Aggregate({name: change[name] for name in self._schema}, treatment)

    @abstractmethod
    def _combine(
        self, schema: ModelSchema, states: Sequence[State], weights: Weights
    ) -> tuple[dict[str, Tensor], Factors | None]:
        """Aggregates one group.

        Args:
            schema: of its tensors, all of the mean rule.
            states: of the hospitals.
            weights: of the hospitals.

        Returns:
            The aggregate, and the factor of each hospital's update in it, where it has one.
        """

    def _distances(self, change: State, states: Sequence[State]) -> NDArray[np.float64]:
        squared = np.zeros(len(states))
        for name in self._groups[0] if self._groups else []:
            squared += self._squared_distances(name, change[name], states)
        distances: NDArray[np.float64] = np.sqrt(squared)
        return distances

    def _squared_distances(
        self, name: str, middle: Tensor, states: Sequence[State]
    ) -> NDArray[np.float64]:
        """Of the hospitals' tensors of a name from the aggregate's."""
        origin = as_floats(middle)
        return np.array([squared_norm(as_floats(state[name]), origin) for state in states])


def as_floats(tensor: Tensor) -> NDArray[np.floating]:
    """A tensor, flat, as float32; as float64 where it is. No copy where it is float32."""
    flat = tensor.detach().reshape(-1)
    if flat.dtype is not torch.float64:
        flat = flat.to(torch.float32)
    return flat.numpy()


def squared_norm(values: NDArray[np.floating], origin: NDArray[np.floating] | None = None) -> float:
    """Squared L2 norm of the values, or of their difference to an origin.

    Differences are taken before anything is squared, and sums over blocks are in double precision,
    so that what is close stays exact to some 1e-6, whatever the size of the values.
    """
    total = 0.0
    # Fresh memory for each difference would cost more than the rest.
    apart = None if origin is None else np.empty_like(values[:BLOCK])
    for start in range(0, values.size, BLOCK):
        block = values[start : start + BLOCK]
        if apart is not None and origin is not None:
            block = np.subtract(block, origin[start : start + BLOCK], out=apart[: block.size])
        found = float(np.dot(block, block))
        # Squares of what is beyond 1e19 or below 1e-19 leave the range of float32.
        if not np.finfo(np.float32).tiny * BLOCK < found < np.inf:
            wide = block.astype(np.float64)
            found = float(np.dot(wide, wide))
        total += found
    return total


def cap_shares(cases: Sequence[int], max_share: float) -> Weights:
    """Weights by cases, none above a share of their sum.

    What is above is cut, not handed to others: `w_k = min(n_k, t)` with the largest t for which no
    `w_k / sum(w)` is above the share, in steps of 1/1024 of a case, so that sums of weights are
    exact. A share that is too small for the number of hospitals makes all equal.

    Args:
        cases: of the hospitals, each at least 1.
        max_share: above 0; 1 for no cap.
    """
    weights = np.array(cases, np.float64)
    if max_share * len(weights) <= 1:
        return np.ones(len(weights))
    ordered = np.sort(weights)[::-1]
    # With the `capped` largest at t and the others below it: t = share * (capped * t + others).
    for capped in range(len(weights)):
        others = float(ordered[capped:].sum())
        level = max_share * others / (1 - max_share * capped) if max_share * capped < 1 else 0.0
        if level >= ordered[capped]:
            break
    cut: Weights = np.minimum(weights, max(np.floor(level * STEPS), 1) / STEPS)
    return cut


def weighted_median(values: NDArray[np.float64], weights: Weights) -> float:
    """The smallest value at which half of the weight is reached.

    Where exactly half is reached, the mean of that value and the next, as in the plain median.
    """
    order = np.argsort(values, kind="stable")
    reached = 2 * np.cumsum(weights[order])
    total = reached[-1] / 2
    lower, upper = np.searchsorted(reached, total), np.searchsorted(reached, total, "right")
    return float((values[order[lower]] + values[order[upper]]) / 2)


def _integer_median(
    name: str, spec: TensorSpec, states: Sequence[State], weights: Weights
) -> Tensor:
    rows = np.stack([state[name].reshape(-1).to(torch.int64).numpy() for state in states])
    medians = [
        int(np.floor(weighted_median(column.astype(np.float64), weights) + 0.5))
        for column in rows.T
    ]
    return torch.tensor(medians, dtype=spec.dtype).reshape(spec.shape)


def weighted_sum(
    schema: ModelSchema, states: Sequence[State], factors: Factors
) -> dict[str, Tensor]:
    """`sum(f_k * x_k)` of each tensor, in double precision, in the order of the hospitals."""
    sums = {}
    scratch, total = np.empty(BLOCK), np.empty(BLOCK)
    for name, spec in schema.items():
        rows = [as_floats(state[name]) for state in states]
        result = torch.empty(rows[0].size, dtype=spec.dtype)
        for start in range(0, rows[0].size, BLOCK):
            part = rows[0][start : start + BLOCK].size
            total[:part] = 0.0
            for row, factor in zip(rows, factors, strict=True):
                scratch[:part] = row[start : start + part]
                scratch[:part] *= factor
                total[:part] += scratch[:part]
            result[start : start + part] = torch.from_numpy(total[:part])
        sums[name] = result.reshape(spec.shape)
    return sums
