"""Code in the jobs of the benchmark `scale`: hospitals that need numpy and no torch.

Both answer at once with a change of the received shapes; nothing is trained.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from consortium.flare.array_streaming import register_arrays
from consortium.flare.wire import (
    metrics_to_shareable,
    model_from_shareable,
    update_to_shareable,
)
from consortium.protocol.metrics import Metrics

_CHANGE = 1e-3  # standard deviation of a change


class LightExecutor(Executor):
    """Answers the tasks of our job."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Registers the codec."""
        if event_type == EventType.START_RUN:
            register_arrays()

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        """Sends a change, or empty metrics."""
        (contents, buffers), meta = model_from_shareable(shareable)
        if task_name != "train":
            return metrics_to_shareable(Metrics())
        plain = {
            "hospital": fl_ctx.get_identity_name(),
            "round": meta["round"],
            "base_sha256": meta["base_sha256"],
            "cases": 1,
            "contents": contents,
            "metrics": Metrics().model_dump(),
        }
        return update_to_shareable({key: _change(flat) for key, flat in buffers.items()}, plain)


class LightStockExecutor(Executor):
    """Answers the task of stock FLARE's job."""

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        """Sends a change."""
        changes = {name: _change(each) for name, each in from_shareable(shareable).data.items()}
        meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: 1}
        return DXO(DataKind.WEIGHT_DIFF, changes, meta).to_shareable()


def _change(values: NDArray[Any]) -> NDArray[Any]:
    if not np.issubdtype(values.dtype, np.floating):
        return np.zeros_like(values)
    noise = np.random.default_rng(0).standard_normal(values.shape, np.float32)
    return (noise * _CHANGE).astype(values.dtype)
