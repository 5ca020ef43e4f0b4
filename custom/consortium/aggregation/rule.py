"""The interface of aggregation rules, which receive updates one by one and return the change.

The result has the same bytes for every order of arrival, and reports how the rule treated each
hospital's update. Rules that need all updates at once derive from `BufferedRule`, which holds them
until the round closes; that costs the memory of one model for each hospital.
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
"""Number of elements that are processed at a time, so that they stay in the cache."""

Rows = Sequence[NDArray[np.floating]]
"""One tensor of every hospital, flat."""
Weights = NDArray[np.float64]
"""One weight a hospital, above 0, in cases; a multiple of 1 / `STEPS`."""
STEPS = 1024
Factors = NDArray[np.float64]
"""One factor a hospital, for a weighted sum of the updates."""


@dataclass(frozen=True, slots=True)
class Treatment:
    """How a rule treated a hospital's update.

    Attributes:
        kept: weight of the update in the aggregate over the weight of its cases: 1 if it counted in
            full, 0 if not at all. Null if the rule has no such number.
        distance: L2 distance of the update from the aggregate, over trainable tensors, in units of
            the weighted median of the hospitals' distances. Null if that is zero: the aggregate is
            then the update of hospitals that hold half of the weight.
    """

    kept: float | None
    distance: float | None


@dataclass(frozen=True, slots=True)
class Aggregate:
    """The result of a rule in a round.

    Attributes:
        change: change of each tensor by name, in the dtypes and shapes of the schema.
        treatment: treatment of each hospital; empty if all updates count by their cases alone.
    """

    change: dict[str, Tensor]
    treatment: dict[str, Treatment] = field(default_factory=dict)


class InvalidUpdate(Exception):
    """An update that a rule refuses; nothing of it was added.

    Attributes:
        code: `not-finite`, `too-large` or `out-of-range`.
        tensor: the first faulty tensor in the order of the schema, or empty.
    """

    def __init__(self, code: str, tensor: str = ""):
        self.code, self.tensor = code, tensor
        super().__init__(f"{code} {tensor}".strip())


class AggregationRule(Protocol):
    """An aggregation rule, which is used for all rounds of a run.

    Attributes:
        buffers_updates: whether updates stay in memory until the round closes.
        needs_plain_updates: whether the rule inspects single updates, not only their sum.
    """

    buffers_updates: bool
    needs_plain_updates: bool

    def reset(self) -> None:
        """Discards all updates and keeps the memory."""

    def add(self, hospital: str, tensors: State, cases: int) -> None:
        """Adds an update completely or not at all, and checks every element.

        Args:
            hospital: the sender; each hospital sends one update a round.
            tensors: the change of each shared tensor, in the shape and dtype of the schema.
            cases: its weight, at least 1.

        Raises:
            InvalidUpdate: a value is not finite, or exceeds the declared bound or the rule's range.
        """

    def aggregate(self) -> Aggregate:
        """Returns the change of the model.

        Raises:
            ZeroDivisionError: nothing was added.
        """


class BufferedRule(ABC):
    """A rule that sees all updates at once, with the hospitals in the order of their names.

    Trainable tensors and buffers (batch-norm statistics) are two groups that are combined
    separately, because the statistics are orders of magnitude larger and would decide alone.
    Integer tensors become their weighted median, rounded half up, which one hospital cannot move
    far.

    Args:
        schema: schema of the model; only shared tensors are aggregated.
        max_change: an element of larger magnitude is refused.
        max_share: largest share of all weights that a hospital may have (see `cap_shares`); 1 for
            no cap.
    """

    buffers_updates = True
    needs_plain_updates = True

    def __init__(
        self, schema: ModelSchema, *, max_change: float = MAX_CHANGE, max_share: float = 1.0
    ):
        self._schema = shared_tensors(schema)
        self._max_change = max_change
        self._max_share = max_share
        self._updates: dict[str, tuple[State, int]] = {}
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
        """Discards all updates."""
        self._updates = {}

    def add(self, hospital: str, tensors: State, cases: int) -> None:
        """Adds an update; its tensors are held, not copied. See `AggregationRule`."""
        for name, spec in self._schema.items():
            code = check_values(tensors[name], spec, self._max_change)
            if code is not None:
                raise InvalidUpdate(code, name)
        self._updates[hospital] = (tensors, cases)

    def aggregate(self) -> Aggregate:
        """Returns the change of the model; see `AggregationRule`."""
        if not self._updates:
            raise ZeroDivisionError("the aggregate of no updates")
        names = sorted(self._updates)
        states = [self._updates[name][0] for name in names]
        weights = cap_shares([self._updates[name][1] for name in names], self._max_share)
        change: dict[str, Tensor] = {}
        kept: list[Factors] = []
        for group in self._groups:
            schema = {name: self._schema[name] for name in group}
            group_change, influence = self._combine(schema, states, weights)
            change |= group_change
            if influence is not None:
                kept.append(influence)
        for name, spec in self._schema.items():
            if spec.reduction is Reduction.INTEGER:
                change[name] = _integer_median(name, spec, states, weights)
        distances = self._distances(change, states)
        middle = weighted_median(distances, weights)
        cases = np.array([self._updates[name][1] for name in names], np.float64)
        shares = cases / cases.sum()
        treatment = {
            name: Treatment(
                float(min(factors[index] for factors in kept) / shares[index]) if kept else None,
                float(distances[index] / middle) if middle else None,
            )
            for index, name in enumerate(names)
        }
        return Aggregate({name: change[name] for name in self._schema}, treatment)

    @abstractmethod
    def _combine(
        self, schema: ModelSchema, states: Sequence[State], weights: Weights
    ) -> tuple[dict[str, Tensor], Factors | None]:
        """Aggregates one group of tensors.

        Args:
            schema: schema of the group's tensors, all with the mean reduction.
            states: tensors of the hospitals.
            weights: weights of the hospitals.

        Returns:
            The aggregate, and the factor of each hospital's update in it; None if the rule has no
            such factors.
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
        """Computes the squared distances of the hospitals' tensors from the aggregate's."""
        origin = as_floats(middle)
        return np.array([squared_norm(as_floats(state[name]), origin) for state in states])


def as_floats(tensor: Tensor) -> NDArray[np.floating]:
    """Flattens a tensor to float32, or to float64 if it is; does not copy float32."""
    flat = tensor.detach().reshape(-1)
    if flat.dtype is not torch.float64:
        flat = flat.to(torch.float32)
    return flat.numpy()


def squared_norm(values: NDArray[np.floating], origin: NDArray[np.floating] | None = None) -> float:
    """Computes the squared L2 norm of the values, or of their difference from an origin.

    Differences are computed before they are squared, and sums over blocks are in double precision,
    so the relative error for close values is near 1e-6, whatever their size.
    """
    total = 0.0
    # Allocating memory for each difference would cost more than the rest.
    scratch = None if origin is None else np.empty_like(values[:BLOCK])
    for start in range(0, values.size, BLOCK):
        block = values[start : start + BLOCK]
        if scratch is not None and origin is not None:
            block = np.subtract(block, origin[start : start + BLOCK], out=scratch[: block.size])
        squared = float(np.dot(block, block))
        # Squares of numbers above 1e19 or below 1e-19 leave the range of float32.
        if not np.finfo(np.float32).tiny * BLOCK < squared < np.inf:
            wide = block.astype(np.float64)
            squared = float(np.dot(wide, wide))
        total += squared
    return total


def cap_shares(cases: Sequence[int], max_share: float) -> Weights:
    """Computes weights by cases, none of them above a share of their sum.

    The excess is cut, not given to others: `w_k = min(n_k, t)` with the largest t for which no
    `w_k / sum(w)` is above the share, in steps of 1/1024 of a case, so that sums of weights are
    exact. A share that is too small for the number of hospitals makes all weights equal.

    Args:
        cases: cases of the hospitals, each at least 1.
        max_share: above 0; 1 for no cap.
    """
    weights = np.array(cases, np.float64)
    if max_share * len(weights) <= 1:
        return np.ones(len(weights))
    ordered = np.sort(weights)[::-1]
    # If the `capped` largest are at t and the others below it: t = share * (capped * t + others).
    for capped in range(len(weights)):
        others = float(ordered[capped:].sum())
        level = max_share * others / (1 - max_share * capped) if max_share * capped < 1 else 0.0
        if level >= ordered[capped]:
            break
    cut: Weights = np.minimum(weights, max(np.floor(level * STEPS), 1) / STEPS)
    return cut


def weighted_median(values: NDArray[np.float64], weights: Weights) -> float:
    """Returns the smallest value at which half of the weight is reached.

    If exactly half is reached, returns the mean of that value and the next, as the plain median.
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
    """Computes `sum(f_k * x_k)` of each tensor, in double precision, in the hospitals' order."""
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
