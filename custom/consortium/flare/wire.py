"""A hospital's side of the wire: FLARE's Shareables, without torch.

`consortium.flare.answers` is the orchestrator's side.
"""

import weakref
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.shareable import Shareable
from nvflare.app_common.decomposers.numpy_decomposers import NumpyArrayDecomposer
from nvflare.fuel.utils import fobs

from consortium.errors import Failure
from consortium.metrics import Metrics

FAILURE, METRICS = "consortium_failure", "consortium_metrics"
"""Headers of an answer without tensors."""


_IN_THE_MESSAGE = 2**20
"""Bytes of an array up to which it travels in the message itself. FLARE has the receiver fetch any
array by itself, in requests that take longer than so few bytes."""


AT_ONCE = 4
"""Senders whose arrays are fetched at a time, where that is limited."""
_PATIENCE = 60.0  # seconds that a sender waits for its turn at most


def put_arrays(buffers: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Arrays as they travel."""
    return {
        key: (flat.dtype.str, flat.tobytes()) if flat.nbytes <= _IN_THE_MESSAGE else flat
        for key, flat in buffers.items()
    }


def take_arrays(carried: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Undoes `put_arrays`.

    Raises:
        ValueError, TypeError: these are no arrays.
    """
    return {
        key: one if isinstance(one, np.ndarray) else np.frombuffer(bytearray(one[1]), one[0])
        for key, one in carried.items()
    }


class _Arrays(NumpyArrayDecomposer):
    """FLARE's codec for arrays, which may fetch the arrays of only so many senders at a time.

    A sender's turn lasts until its arrays are gone from memory here.
    """

    turns: SimpleQueue[None] | None = None

    def download(self, *args: Any, **more: Any) -> tuple[str, dict[str, NDArray[Any]] | None]:
        """Fetches a sender's arrays."""
        if self.turns is None:
            found: tuple[str, dict[str, NDArray[Any]] | None] = super().download(*args, **more)
            return found
        give_back: Callable[[None], None] = self.turns.put
        try:
            self.turns.get(timeout=_PATIENCE)
        except Empty:  # those whose turn it is are stuck: rather more memory than no round
            give_back = _keep
        left = [None]
        try:
            error, arrays = super().download(*args, **more)
            for array in (arrays or {}).values():
                left.append(None)
                weakref.finalize(array, _one_less, left, give_back)
            return error, arrays
        finally:
            _one_less(left, give_back)


def _one_less(left: list[None], give_back: Callable[[None], None]) -> None:
    left.pop()
    if not left:
        give_back(None)


def _keep(turn: None) -> None:
    """There is no turn to give back."""


def register_arrays() -> None:
    """Lets FLARE carry numpy arrays as they are."""
    fobs.register(_Arrays)


def fetch_few_at_a_time() -> None:
    """Fetches the arrays of `AT_ONCE` senders at a time, for who lets go of each after a look."""
    turns: SimpleQueue[None] = SimpleQueue()
    for _ in range(AT_ONCE):
        turns.put(None)
    _Arrays.turns = turns


def model_from_shareable(
    shareable: Shareable,
) -> tuple[tuple[Any, dict[str, NDArray[Any]]], dict[str, Any]]:
    """The model as `consortium.update.pack` gave it, and what goes with it.

    Raises:
        ValueError: it holds no model.
    """
    dxo = from_shareable(shareable)
    meta = dict(dxo.meta)
    return (meta.pop("contents", None), take_arrays(dxo.data)), meta


def update_to_shareable(buffers: Mapping[str, NDArray[Any]], plain: Mapping[str, Any]) -> Shareable:
    """An update as a hospital sends it, from `consortium.update.update_to_wire`."""
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
