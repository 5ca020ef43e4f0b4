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
"""Bytes of an array up to which it travels in the message itself. FLARE has the receiver fetch any
array by itself, in requests that take longer than so few bytes."""


def put_arrays(buffers: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Arrays as they travel."""
    return {
        key: (flat.dtype.str, flat.tobytes())
        if flat.nbytes <= _IN_THE_MESSAGE
        else StreamedArray(flat)
        for key, flat in buffers.items()
    }


def take_arrays(carried: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Undoes `put_arrays`.

    Raises:
        ValueError, TypeError: these are no arrays.
    """
    return {
        key: one.array
        if isinstance(one, StreamedArray)
        else np.frombuffer(bytearray(one[1]), one[0])
        for key, one in carried.items()
    }


def drop_arrays(shareable: Shareable) -> None:
    """Lets go of the arrays of what was sent, if it has any; what is on its way still arrives.

    FLARE holds on to a task until garbage is collected, and to an answer for longer.
    """
    with suppress(ValueError):
        for one in from_shareable(shareable).data.values():
            if isinstance(one, StreamedArray):
                one.array = np.empty(0)


def model_from_shareable(
    shareable: Shareable,
) -> tuple[tuple[Any, dict[str, NDArray[Any]]], dict[str, Any]]:
    """The model as `consortium.protocol.codec.pack` gave it, and what goes with it.

    Raises:
        ValueError: it holds no model.
    """
    dxo = from_shareable(shareable)
    meta = dict(dxo.meta)
    return (meta.pop("contents", None), take_arrays(dxo.data)), meta


def update_to_shareable(buffers: Mapping[str, NDArray[Any]], plain: Mapping[str, Any]) -> Shareable:
    """An update as a hospital sends it, from `consortium.protocol.update.update_to_wire`."""
    carried = put_arrays(buffers)
    return DXO(DataKind.WEIGHT_DIFF, carried, {"update": dict(plain)}).to_shareable()


def failure_to_shareable(failure: Failure) -> Shareable:
    """A failure; its return code is OK, or FLARE would drop it without telling anyone."""
    shareable = Shareable()
    shareable.set_header(FAILURE, {"code": failure.code})
    return shareable


def metrics_to_shareable(metrics: Metrics) -> Shareable:
    """Metrics without tensors."""
    shareable = Shareable()
    shareable.set_header(METRICS, metrics.model_dump())
    return shareable
