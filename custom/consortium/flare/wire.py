"""Between FLARE's Shareables and the package's own types."""

from collections.abc import Mapping
from typing import Any

from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.shareable import Shareable
from pydantic import ValidationError
from torch import Tensor

from consortium.update import (
    Failure,
    Metrics,
    Update,
    UpdateRefused,
    failure_from_wire,
    pack,
    update_from_wire,
)

_FAILURE, _METRICS = "consortium_failure", "consortium_metrics"


def model_to_shareable(model: Mapping[str, Tensor], **meta: Any) -> Shareable:
    """A model with what goes with it."""
    contents, buffers = pack(model)
    return DXO(DataKind.WEIGHTS, buffers, {"contents": contents, **meta}).to_shareable()


def model_from_shareable(
    shareable: Shareable,
) -> tuple[tuple[Any, dict[str, Tensor]], dict[str, Any]]:
    """The model as `consortium.update.pack` gave it, and what goes with it.

    Raises:
        ValueError: it holds no model.
    """
    dxo = from_shareable(shareable)
    meta = dict(dxo.meta)
    return (meta.pop("contents", None), dxo.data), meta


def update_to_shareable(buffers: Mapping[str, Tensor], plain: Mapping[str, Any]) -> Shareable:
    """An update as a hospital sends it, from `consortium.update.update_to_wire`."""
    return DXO(DataKind.WEIGHT_DIFF, dict(buffers), {"update": dict(plain)}).to_shareable()


def failure_to_shareable(failure: Failure) -> Shareable:
    """A failure; its return code is OK, or FLARE would drop it without telling anyone."""
    shareable = Shareable()
    shareable.set_header(_FAILURE, {"code": failure.code})
    return shareable


def metrics_to_shareable(metrics: Metrics) -> Shareable:
    """Metrics without tensors."""
    shareable = Shareable()
    shareable.set_header(_METRICS, metrics.model_dump())
    return shareable


def answer_from_shareable(shareable: Shareable, sender: str) -> Update | UpdateRefused | Failure:
    """What a hospital sent in answer to a round.

    Args:
        shareable: as received.
        sender: the hospital as the channel authenticated it.
    """
    failure = shareable.get_header(_FAILURE)
    if failure is not None:
        return failure_from_wire(failure, sender)
    try:
        dxo = from_shareable(shareable)
        return update_from_wire(dxo.data, dxo.meta.get("update"), sender)
    except UpdateRefused as refusal:
        return refusal
    except Exception:  # whatever a hospital sent, it must not break the round of the others
        return UpdateRefused(sender, "malformed")


def metrics_from_shareable(shareable: Shareable, sender: str) -> Metrics | Failure:
    """What a hospital sent in answer to a question about a model."""
    failure = shareable.get_header(_FAILURE)
    if failure is not None:
        return failure_from_wire(failure, sender)
    try:
        return Metrics.model_validate(shareable.get_header(_METRICS))
    except ValidationError:
        return Failure(sender, "malformed")
