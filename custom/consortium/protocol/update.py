"""The one type that crosses the border between a hospital and the orchestrator.

An update is `local - base` for the tensors that a study shares, with the digest of its base, the
round, the number of training cases and metrics. It is validated once, at the border, whole or not
at all: what `validate` lets through has the names, shapes and dtypes of the model, finite values
within the declared bounds, a weight in range, and answers the round that was asked. A hospital that
cannot answer sends a `consortium.core.errors.Failure` instead: a code and a tensor's name, never
text.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from consortium.core.errors import ConsortiumError
from consortium.protocol.buffers import Buffers, Make, make_buffers
from consortium.protocol.codec import describe, pack, unpack
from consortium.protocol.metrics import Metrics, ScoreSpec
from consortium.protocol.schema import ModelSchema, Reduction, State, TensorSpec, shared_tensors

MAX_CHANGE = 65536.0
"""Largest magnitude of an element of a change that any study may allow."""


@dataclass(frozen=True, slots=True)
class Update:
    """A hospital's answer to one round.

    Attributes:
        hospital: who made it.
        round: the round it answers, from 0.
        base_sha256: `consortium.protocol.codec.digest` of the model it started from.
        cases: training cases it stands for; its weight.
        tensors: `local - base`, named and shaped as the model.
        metrics: see `Metrics`.
    """

    hospital: str
    round: int
    base_sha256: str
    cases: int
    tensors: State
    metrics: Metrics


class UpdateRefused(ConsortiumError):
    """An update that is not taken.

    Attributes:
        hospital: who sent it.
        tensor: the first tensor at fault, or empty.
    """

    exit_code = 3

    def __init__(self, hospital: str, code: str, tensor: str = ""):
        self.hospital, self.tensor = hospital, tensor
        where = f"hospital {hospital}" + (f", tensor {tensor}" if tensor else "")
        super().__init__(code, "the update is refused", where, "see errors.log at the hospital")


@dataclass(frozen=True, slots=True)
class Expected:
    """What an update must answer to be taken.

    Attributes:
        round: the round that is open.
        base_sha256: digest of the model handed out.
        schema: of the whole model.
        max_cases: largest weight.
        max_change: largest magnitude of an element of a tensor that follows the mean rule.
        scored: what the job's scores are of.
    """

    round: int
    base_sha256: str
    schema: ModelSchema
    max_cases: int
    max_change: float
    scored: ScoreSpec


def validate(update: Update, expected: Expected, *, values: bool = True) -> None:
    """Checks an update whole.

    Args:
        update: to check.
        expected: what it must answer.
        values: look at every element; for those who do not do so themselves.

    Raises:
        UpdateRefused: `wrong-round`, `wrong-base`, `bad-weight`, `missing-tensor`,
            `unexpected-tensor`, `wrong-shape`, `wrong-dtype`, `not-finite` or `too-large`, naming
            the first tensor at fault in the order of the names, or `wrong-metrics`.
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
    if not update.metrics.fit(expected.scored, expected.max_cases):
        raise refuse("wrong-metrics")


def check_values(tensor: Tensor, spec: TensorSpec, max_change: float) -> str | None:
    """Looks at every element.

    Returns:
        `not-finite`, `too-large`, or None where nothing is wrong.
    """
    if tensor.numel() == 0:
        return None
    # One pass that also finds NaN: it propagates into both ends.
    low, high = (float(end) for end in torch.aminmax(tensor))
    if not (np.isfinite(low) and np.isfinite(high)):
        return "not-finite"
    if spec.reduction is Reduction.MEAN and max(-low, high) > max_change:
        return "too-large"
    return None


def difference(
    local: State, base: State, schema: ModelSchema, make: Make = make_buffers
) -> dict[str, Tensor]:
    """`local - base` of the tensors that cross, on the CPU.

    Args:
        local: of any device.
        base: the same tensors.
        schema: of them.
        make: gives the buffers that they fill, as `pack` does.
    """
    contents, sizes = describe(shared_tensors(schema))
    changes = unpack(contents, make(sizes))
    for name, change in changes.items():
        torch.sub(local[name].detach().cpu(), base[name].cpu(), out=change)
    return changes


def apply_change(base: State, change: State) -> dict[str, Tensor]:
    """`base + change` in flat buffers; tensors without a change are as they were."""
    contents, sizes = describe(base)
    model = unpack(contents, make_buffers(sizes))
    for name, tensor in model.items():
        if name in change:
            torch.add(base[name], change[name], out=tensor)
        else:
            tensor.copy_(base[name])
    return model


def update_to_wire(update: Update, make: Make | None = None) -> tuple[Buffers, dict[str, Any]]:
    """An update as flat buffers and a plain dictionary; `update_from_wire` undoes it."""
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
    """Rebuilds an update that `sender`, as the channel authenticated it, has sent.

    Raises:
        UpdateRefused: `malformed`, or `wrong-hospital` where it claims to be another's.
    """
    try:
        claimed = plain["hospital"]
        update = Update(
            sender,
            int(plain["round"]),
            str(plain["base_sha256"]),
            plain["cases"],
            unpack(plain["contents"], buffers),
            Metrics.model_validate(plain["metrics"]),
        )
    except (TypeError, KeyError, ValueError, ValidationError):
        raise UpdateRefused(sender, "malformed") from None
    if claimed != sender:
        raise UpdateRefused(sender, "wrong-hospital")
    return update
