"""The tensors of a model, and how each is reduced between rounds."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

State = Mapping[str, Tensor]


class Reduction(StrEnum):
    """How a tensor of the model is reduced between rounds.

    `MEAN`: its change is averaged over hospitals. `INTEGER`: the same, in integers, rounded half
    up. `LOCAL`: every hospital keeps its own and never sends it.
    """

    MEAN = "mean"
    INTEGER = "integer"
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of the model.

    Attributes:
        dtype: type of its elements.
        shape: its shape.
        reduction: how it is reduced between rounds.
        trainable: whether it is learned; false for buffers (batch-norm statistics, counters).
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    reduction: Reduction
    trainable: bool = True


ModelSchema = Mapping[str, TensorSpec]


def schema_of(network: torch.nn.Module, *, local_buffers: bool) -> dict[str, TensorSpec]:
    """Returns the schema of a network's state, sorted by name.

    Args:
        network: its parameters that need no gradient stay local.
        local_buffers: whether buffers stay at the hospital; if not, integer buffers follow the
            integer rule.
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
    """Returns the tensors that hospitals send to the orchestrator, in the schema's order."""
    return {name: spec for name, spec in schema.items() if spec.reduction is not Reduction.LOCAL}


def bytes_of(schema: ModelSchema) -> int:
    """Counts the bytes of all tensors of a schema."""
    return sum(spec.dtype.itemsize * math.prod(spec.shape) for spec in schema.values())


def values_of(schema: ModelSchema) -> int:
    """Counts the elements of all tensors of a schema."""
    return sum(math.prod(spec.shape) for spec in schema.values())
