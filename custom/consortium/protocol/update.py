"""The update, which a hospital sends to the orchestrator in each round.

An update is `local - base` for the tensors that a study shares, with the digest of its base model,
the round, the number of training cases and metrics. The orchestrator validates it once and accepts
it whole or not at all: an update that passes `validate` has the names, shapes and dtypes of the
model, finite values within the declared bounds, a weight in range, and the open round. A hospital
that cannot answer sends a `consortium.core.errors.Failure` instead, which is a code and never text.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from consortium.core.errors import ConsortiumError
from consortium.protocol.buffers import BufferFactory, Buffers, make_buffers
from consortium.protocol.codec import describe, pack, unpack
from consortium.protocol.metrics import Metrics, ScoreSpec
from consortium.protocol.schema import ModelSchema, Reduction, State, TensorSpec, shared_tensors

MAX_CHANGE = 65536.0
"""Largest magnitude of an element of a change that any study may allow."""


@dataclass(frozen=True, slots=True)
class Update:
    """A hospital's answer to one round.

    Attributes:
        hospital: name of the sender.
        round: number of the round, from 0.
        base_sha256: `consortium.protocol.codec.digest` of the model that the training started from.
        cases: number of training cases; the update's weight.
        tensors: `local - base`, with the names and shapes of the model.
        metrics: see `Metrics`.
    """

    hospital: str
    round: int
    base_sha256: str
    cases: int
    tensors: State
    metrics: Metrics


class UpdateRefused(ConsortiumError):
    """An update that the orchestrator refuses.

    Attributes:
        hospital: name of the sender.
        tensor: the first faulty tensor, or empty.
    """

    exit_code = 3

    def __init__(self, hospital: str, code: str, tensor: str = ""):
        self.hospital, self.tensor = hospital, tensor
        where = f"hospital {hospital}" + (f", tensor {tensor}" if tensor else "")
        super().__init__(code, "the update is refused", where, "see errors.log at the hospital")


@dataclass(frozen=True, slots=True)
class Expected:
    """The values that an update must match to be accepted.

    Attributes:
        round: the open round.
        base_sha256: digest of the model that was sent to the hospitals.
        schema: schema of the whole model.
        max_cases: largest weight.
        max_change: largest magnitude of an element of a tensor that follows the mean rule.
        scored: the figures and classes of the job's scores.
    """

    round: int
    base_sha256: str
    schema: ModelSchema
    max_cases: int
    max_change: float
    scored: ScoreSpec


def validate(update: Update, expected: Expected, *, values: bool = True) -> None:
    """Checks an update completely.

    Args:
        update: the update.
        expected: what it must match.
        values: check every element; false if the caller does so itself.

    Raises:
        UpdateRefused: `wrong-round`, `wrong-base`, `bad-weight`, `missing-tensor`,
            `unexpected-tensor`, `wrong-shape`, `wrong-dtype`, `not-finite` or `too-large`, with the
            first faulty tensor in the order of the names, or `wrong-metrics`.
    """

    def refuse(code: str, tensor: str = "") -> UpdateRefused:
        return UpdateRefused(update.hospital, code, tensor)

    if update.round != expected.round:
        raise refuse("wrong-round")
    if update.base_sha256 != expected.base_sha256:
        raise refuse("wrong-base")
    if type(update.cases) is not int or not 1 <= update.cases <= expected.max_cases:
        raise refuse("bad-weight")
    wanted = shared_tensors(expected.schema)
    for name in sorted(wanted.keys() | update.tensors.keys()):
        if name not in update.tensors:
            raise refuse("missing-tensor", name)
        if name not in wanted:
            raise refuse("unexpected-tensor", name[:200])
        tensor, spec = update.tensors[name], wanted[name]
        if tuple(tensor.shape) != spec.shape:
            raise refuse("wrong-shape", name)
        if tensor.dtype != spec.dtype:
            raise refuse("wrong-dtype", name)
        code = check_values(tensor, spec, expected.max_change) if values else None
        if code is not None:
            raise refuse(code, name)
    if not update.metrics.fits(expected.scored, expected.max_cases):
        raise refuse("wrong-metrics")


def check_values(tensor: Tensor, spec: TensorSpec, max_change: float) -> str | None:
    """Checks every element.

    Returns:
        `not-finite`, `too-large`, or None if nothing is wrong.
    """
    if tensor.numel() == 0:
        return None
    # One pass also finds NaN, which propagates into both ends.
    low, high = (float(end) for end in torch.aminmax(tensor))
    if not (np.isfinite(low) and np.isfinite(high)):
        return "not-finite"
    if spec.reduction is Reduction.MEAN and max(-low, high) > max_change:
        return "too-large"
    return None


def difference(
    local: State, base: State, schema: ModelSchema, make: BufferFactory = make_buffers
) -> dict[str, Tensor]:
    """Computes `local - base` of the shared tensors, on the CPU.

    Args:
        local: state after the training, on any device.
        base: state before the training.
        schema: schema of the model.
        make: allocates the buffers that hold the result; see `pack`.
    """
    contents, sizes = describe(shared_tensors(schema))
    changes = unpack(contents, make(sizes))
    for name, change in changes.items():
        torch.sub(local[name].detach().cpu(), base[name].cpu(), out=change)
    return changes


def apply_change(base: State, change: State) -> dict[str, Tensor]:
    """Computes `base + change` in flat buffers; tensors without a change are copied."""
    contents, sizes = describe(base)
    model = unpack(contents, make_buffers(sizes))
    for name, tensor in model.items():
        if name in change:
            torch.add(base[name], change[name], out=tensor)
        else:
            tensor.copy_(base[name])
    return model


def update_to_wire(
    update: Update, make: BufferFactory | None = None
) -> tuple[Buffers, dict[str, Any]]:
    """Turns an update into flat buffers and a plain dictionary; see `update_from_wire`."""
    contents, buffers = pack(update.tensors, make)
    return buffers, {
        "hospital": update.hospital,
        "round": update.round,
        "base_sha256": update.base_sha256,
        "cases": update.cases,
        "contents": contents,
        "metrics": update.metrics.model_dump(),
    }


def update_from_wire(buffers: Any, plain: Any, sender: str) -> Update:
    """Rebuilds an update from `sender`, whose name the connection has authenticated.

    Raises:
        UpdateRefused: `malformed`, or `wrong-hospital` if the update names another hospital.
    """
    try:
        claimed, number, base = plain["hospital"], plain["round"], plain["base_sha256"]
        if type(number) is not int or type(base) is not str:
            raise ValueError("not a round")
        update = Update(
            sender,
            number,
            base,
            plain["cases"],
            unpack(plain["contents"], buffers),
            Metrics.model_validate(plain["metrics"]),
        )
    except (TypeError, KeyError, ValueError, ValidationError):
        raise UpdateRefused(sender, "malformed") from None
    if claimed != sender:
        raise UpdateRefused(sender, "wrong-hospital")
    return update
