"""The orchestrator's side of the wire: encodes models and decodes hospitals' answers."""

import math
from collections.abc import Mapping
from typing import Any

from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.shareable import Shareable
from torch import Tensor

from consortium.core.errors import Failure, failure_from_wire
from consortium.flare.server.intake import RefusedAnswer
from consortium.flare.wire import FAILURE, METRICS, put_arrays, take_arrays
from consortium.protocol.codec import count_values, pack
from consortium.protocol.metrics import Metrics
from consortium.protocol.pipeline import Pipeline
from consortium.protocol.update import Update, UpdateRefused, update_from_wire


def model_to_shareable(model: Mapping[str, Tensor], **meta: Any) -> Shareable:
    """Encodes a model and the values to send with it."""
    contents, buffers = pack(model)
    encoded = put_arrays(buffers)
    return DXO(DataKind.WEIGHTS, encoded, {"contents": contents, **meta}).to_shareable()


def answer_from_shareable(
    shareable: Shareable, sender: str, pipeline: Pipeline, max_values: float = math.inf
) -> Update | UpdateRefused | Failure:
    """Decodes a hospital's answer to a round; whatever is wrong with it becomes a refusal.

    Args:
        shareable: as received.
        sender: the hospital as the channel authenticated it.
        pipeline: the steps that the hospital applied to its update; they are undone here.
        max_values: largest number of elements that the update may declare; what is compressed
            takes several times its bytes.
    """
    if isinstance(shareable, RefusedAnswer):
        return UpdateRefused(sender, shareable.code)
    try:
        failure = shareable.get_header(FAILURE)
        if failure is not None:
            return failure_from_wire(failure, sender)
        dxo = from_shareable(shareable)
        plain = dxo.meta["update"]
        if count_values(plain["contents"]) > max_values:
            return UpdateRefused(sender, "too-many-values")
        received = pipeline.server(take_arrays(dxo.data), plain)
        return update_from_wire(*received, sender)
    except UpdateRefused as refusal:
        return refusal
    except Exception:  # whatever a hospital sends must not break the round of the others
        return UpdateRefused(sender, "malformed")


def metrics_from_shareable(shareable: Shareable, sender: str) -> Metrics | Failure:
    """Decodes a hospital's metrics of a model; whatever is wrong with them becomes a failure."""
    if isinstance(shareable, RefusedAnswer):
        return Failure(sender, shareable.code)
    try:
        failure = shareable.get_header(FAILURE)
        if failure is not None:
            return failure_from_wire(failure, sender)
        return Metrics.model_validate(shareable.get_header(METRICS))
    except Exception:  # as above
        return Failure(sender, "malformed")
