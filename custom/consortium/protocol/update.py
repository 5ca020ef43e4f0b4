"""The one type that crosses the border between a hospital and the orchestrator.

An update is `local - base` for the tensors that a study shares, with the digest of its base, the
round, the number of training cases and metrics. It is validated once, at the border, whole or not
at all: what `validate` lets through has the names, shapes and dtypes of the model, finite values
within the declared bounds, a weight in range, and answers the round that was asked. A hospital that
cannot answer sends a `consortium.core.errors.Failure` instead: a code and a tensor's name, never
text.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from consortium.core.errors import ConsortiumError
from consortium.protocol.metrics import Metrics, Scored

State = Mapping[str, Tensor]


class Reduction(StrEnum):
    """What becomes of a tensor of the model between rounds.

    `MEAN`: its change is averaged over hospitals. `INTEGER`: the same, in integers, rounded half
    up. `LOCAL`: every hospital keeps its own; it never crosses.
    """

    MEAN = "mean"
    INTEGER = "integer"
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of the model.

    Attributes:
        dtype: of its elements.
        shape: of it.
        rule: what becomes of it between rounds.
        trainable: whether it is learned, not a buffer (batch-norm statistics, counters).
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    reduction: Reduction
    trainable: bool = True


ModelSchema = Mapping[str, TensorSpec]
MAX_CHANGE = 65536.0
"""Largest magnitude of an element of a change that any study may allow."""


def schema_of(network: torch.nn.Module, *, local_buffers: bool) -> dict[str, TensorSpec]:
    """The schema of a network's state, sorted by name.

    Args:
        network: parameters that need no gradient stay local, as do floating-point buffers where
            `local_buffers` says so; integer buffers follow the integer rule.
        local_buffers: whether floating-point buffers stay at the hospital.
    """
    trainable = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    frozen = {name for name, _ in network.named_parameters()} - trainable
    specs = {}
    for name, tensor in sorted(network.state_dict().items()):
        if name in frozen or (name not in trainable and local_buffers):
            rule = Reduction.LOCAL
        else:
            rule = Reduction.MEAN if tensor.is_floating_point() else Reduction.INTEGER
        specs[name] = TensorSpec(tensor.dtype, tuple(tensor.shape), rule, name in trainable)
    return specs


def shared_tensors(schema: ModelSchema) -> dict[str, TensorSpec]:
    """The part of a schema that crosses the border, in the schema's order."""
    return {name: spec for name, spec in schema.items() if spec.reduction is not Reduction.LOCAL}


def bytes_of(schema: ModelSchema) -> int:
    """Of all tensors."""
    return sum(spec.dtype.itemsize * math.prod(spec.shape) for spec in schema.values())


def digest(state: State) -> str:
    """sha256 over names, dtypes, shapes and bytes, in the order of the names."""
    total = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        total.update(as_bytes(tensor))
    return total.hexdigest()


def as_bytes(tensor: Tensor) -> memoryview:
    """The tensor's bytes in C order; no copy where it is contiguous on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Update:
    """A hospital's answer to one round.

    Attributes:
        hospital: who made it.
        round: the round it answers, from 0.
        base_sha256: `digest` of the model it started from.
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
    scored: Scored


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


# One flat buffer a dtype travels faster than many small tensors, so that is the wire form; they are
# numpy's, so that the process that carries them at a hospital needs no torch.

Contents = list[tuple[str, str, list[int]]]
Buffers = dict[str, NDArray[Any]]
Sizes = dict[str, tuple[str, int]]
"""Of each buffer numpy's name of its dtype and its elements."""


def make_buffers(sizes: Sizes) -> Buffers:
    """Buffers in memory of their own."""
    return {key: np.empty(count, dtype) for key, (dtype, count) in sizes.items()}


Make = Callable[[Sizes], Buffers]


def pack(tensors: State, make: Make | None = None) -> tuple[Contents, Buffers]:
    """Joins tensors into one flat buffer a dtype.

    Args:
        tensors: of any device.
        make: gives the buffers to fill; tensors that lie there already are not copied. Without it
            they are new ones, but for tensors that are a flat buffer's in this order already.

    Returns:
        The contents as (name, dtype, shape) in order, and the buffers by dtype; bfloat16, which
        numpy does not know, as int16 of the same bits.
    """
    contents, sizes = _describe(tensors)
    if make is None:
        flat = _flat_already(tensors, sizes)
        if flat is not None:
            return contents, flat
    buffers = (make or make_buffers)(sizes)
    for target, tensor in zip(unpack(contents, buffers).values(), tensors.values(), strict=True):
        if target.data_ptr() != tensor.data_ptr():
            target.copy_(tensor.detach())
    return contents, buffers


def _describe(tensors: Mapping[str, Tensor | TensorSpec]) -> tuple[Contents, Sizes]:
    contents: Contents = []
    sizes: Sizes = {}
    for name, tensor in tensors.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        contents.append((name, dtype, list(tensor.shape)))
        wire = "int16" if dtype == "bfloat16" else dtype
        sizes[dtype] = (wire, sizes.get(dtype, (wire, 0))[1] + math.prod(tensor.shape))
    return contents, sizes


def _flat_already(tensors: State, sizes: Sizes) -> Buffers | None:
    """The buffers that tensors fill one after the other; None where they do not."""
    flats: dict[str, Tensor] = {}
    position: dict[str, int] = {}
    for tensor in tensors.values():
        dtype = str(tensor.dtype).removeprefix("torch.")
        if tensor.device.type != "cpu" or not tensor.is_contiguous():
            return None
        if dtype not in flats:
            storage = tensor.untyped_storage()
            flats[dtype] = torch.empty(0, dtype=tensor.dtype).set_(storage)
            position[dtype] = storage.data_ptr()
        if tensor.numel() and tensor.data_ptr() != position[dtype]:
            return None
        position[dtype] += tensor.numel() * tensor.element_size()
    if any(flat.numel() != sizes[dtype][1] for dtype, flat in flats.items()):
        return None
    return {
        dtype: flat.view(getattr(torch, sizes[dtype][0])).numpy() for dtype, flat in flats.items()
    }


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
    contents, sizes = _describe(shared_tensors(schema))
    changes = unpack(contents, make(sizes))
    for name, change in changes.items():
        torch.sub(local[name].detach().cpu(), base[name].cpu(), out=change)
    return changes


def apply_change(base: State, change: State) -> dict[str, Tensor]:
    """`base + change` in flat buffers; tensors without a change are as they were."""
    contents, sizes = _describe(base)
    model = unpack(contents, make_buffers(sizes))
    for name, tensor in model.items():
        if name in change:
            torch.add(base[name], change[name], out=tensor)
        else:
            tensor.copy_(base[name])
    return model


Plan = tuple[dict[str, list[int]], list[tuple[str, str, tuple[int, ...]]]]
_planned: list[tuple[Any, Plan]] = []


def _plan(contents: Any) -> Plan:
    """Of each dtype the elements of its tensors, and of each tensor its name, dtype and shape.

    The last one is remembered, for the updates of a run have the same contents.
    """
    if _planned and _planned[0][0] == contents:
        return _planned[0][1]
    sizes: dict[str, list[int]] = {}
    shapes: list[tuple[str, str, tuple[int, ...]]] = []
    names: set[str] = set()
    for name, dtype, shape in contents:
        if not isinstance(name, str) or name in names or any(side < 0 for side in shape):
            raise ValueError("contents do not fit")
        names.add(name)
        sizes.setdefault(dtype, []).append(math.prod(shape))
        shapes.append((name, dtype, tuple(shape)))
    _planned[:] = [(deepcopy(contents), (sizes, shapes))]
    return sizes, shapes


def unpack(contents: Any, buffers: Any) -> dict[str, Tensor]:
    """Undoes `pack`; the tensors are views of the buffers.

    Raises:
        ValueError: the contents and the buffers do not fit exactly, or a name comes twice.
    """
    try:
        sizes, shapes = _plan(contents)
        flats = {dtype: _tensor_of(dtype, buffer) for dtype, buffer in buffers.items()}
        if any(sum(sizes.get(dtype, ())) != flat.numel() for dtype, flat in flats.items()):
            raise ValueError("contents do not fit")
        parts = {
            dtype: iter(flats[dtype].split(each))  # type: ignore[no-untyped-call]
            for dtype, each in sizes.items()
        }
        return {name: next(parts[dtype]).view(shape) for name, dtype, shape in shapes}
    except (TypeError, KeyError, AttributeError, IndexError, RuntimeError) as error:
        raise ValueError(f"malformed ({type(error).__name__})") from None


def _tensor_of(dtype: str, buffer: NDArray[Any]) -> Tensor:
    flat = torch.from_numpy(buffer)
    if dtype == "bfloat16":
        flat = flat.view(torch.bfloat16)
    if flat.dim() != 1 or str(flat.dtype) != f"torch.{dtype}":
        raise ValueError("dtype does not fit")
    return flat


def update_to_wire(update: Update, make: Make | None = None) -> tuple[Buffers, dict[str, Any]]:
    """An update as flat buffers and a plain dictionary; see `pack` and `update_from_wire`."""
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
