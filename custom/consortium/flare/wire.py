"""A hospital's side of the wire: FLARE's Shareables, without torch.

`consortium.flare.server.answers` is the orchestrator's side.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.shareable import Shareable

from consortium.core.errors import Failure
from consortium.flare.array_streaming import StreamedArray
from consortium.protocol.metrics import Metrics

FAILURE, METRICS = "consortium_failure", "consortium_metrics"
"""Headers of an answer without tensors."""


_IN_THE_MESSAGE = 2**20
"""Arrays of up to so many bytes are part of the message itself. The receiver fetches larger ones in
requests of their own, which would take longer than so few bytes."""


def put_arrays(buffers: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Encodes arrays for a message."""
    return {
        key: (flat.dtype.str, flat.tobytes())
        if flat.nbytes <= _IN_THE_MESSAGE
        else StreamedArray(flat)
        for key, flat in buffers.items()
    }


def take_arrays(encoded: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Decodes what `put_arrays` encoded.

    Raises:
        ValueError, TypeError: the values are no arrays.
    """
    return {
        key: value.array
        if isinstance(value, StreamedArray)
        else np.frombuffer(bytearray(value[1]), value[0])
        for key, value in encoded.items()
    }


def drop_arrays(shareable: Shareable) -> None:
    """Releases the arrays of a sent message, if it has any; a transfer that has begun still ends.

    FLARE holds on to a task until garbage is collected, and to an answer for longer.
    """
    with suppress(ValueError):
        for value in from_shareable(shareable).data.values():
            if isinstance(value, StreamedArray):
                value.array = np.empty(0)


def model_from_shareable(
    shareable: Shareable,
) -> tuple[tuple[Any, dict[str, NDArray[Any]]], dict[str, Any]]:
    """Decodes a model, as returned by `consortium.protocol.codec.pack`, and its other values.

    Raises:
        ValueError: it holds no model.
    """
    dxo = from_shareable(shareable)
    meta = dict(dxo.meta)
    return (meta.pop("contents", None), take_arrays(dxo.data)), meta


def update_to_shareable(buffers: Mapping[str, NDArray[Any]], plain: Mapping[str, Any]) -> Shareable:
    """Encodes an update, as returned by `consortium.protocol.update.update_to_wire`."""
    encoded = put_arrays(buffers)
    return DXO(DataKind.WEIGHT_DIFF, encoded, {"update": dict(plain)}).to_shareable()


def failure_to_shareable(failure: Failure) -> Shareable:
    """Encodes a failure; its return code is OK, because FLARE drops others without notice."""
    shareable = Shareable()
    shareable.set_header(FAILURE, {"code": failure.code})
    return shareable


def metrics_to_shareable(metrics: Metrics) -> Shareable:
    """Encodes metrics, without tensors."""
    shareable = Shareable()
    shareable.set_header(METRICS, metrics.model_dump())
    return shareable
