"""Code in the jobs of the benchmark `round`: the stand-ins for training, and the clock.

Both stand-ins sleep for the same known time instead of taking optimiser steps. Ours replaces only
the steps, so that the figure includes everything else that the Executor does in a round. Stock
FLARE's sends a change that was computed before and does nothing else. Every process appends its
moments to its own file, by the machine's monotonic clock.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.app_opt.pt.decomposers import TensorDecomposer
from nvflare.fuel.utils import fobs

from consortium.client.trainer import LocalTrainer
from consortium.flare.client.executor import HospitalExecutor

SERVER = "server"
TRAINED = "trained"
EVENTS = (
    AppEventType.ROUND_STARTED,
    AppEventType.AFTER_CONTRIBUTION_ACCEPT,
    AppEventType.BEFORE_AGGREGATION,
    AppEventType.ROUND_DONE,
)
_STAND_IN = "CONSORTIUM_BENCHMARK"
"""Environment variable of a hospital's trainer process, with the folder and the seconds."""
_CHANGE = 1e-3  # standard deviation of a stand-in's change


def note(folder: str, who: str, what: str, round_number: int, *moments: float) -> None:
    """Appends moments of a round to a process's file."""
    line = json.dumps({"what": what, "round": round_number, "moments": moments})
    with (Path(folder) / f"{who}.jsonl").open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


class RoundClock(FLComponent):
    """Writes the times of the server's events of a round.

    Args:
        folder: of the files.
    """

    def __init__(self, folder: str):
        super().__init__()
        self._folder = folder

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Writes the time of an event of a round."""
        if event_type in EVENTS:
            now = time.monotonic()
            note(self._folder, SERVER, event_type, fl_ctx.get_prop(AppConstants.CURRENT_ROUND), now)


class StandInHospital(LocalTrainer):
    """Sleeps instead of taking optimiser steps; configured by `StandInExecutor`."""

    def __init__(self, *args: Any, **more: Any):
        super().__init__(*args, **more)
        options = json.loads(os.environ[_STAND_IN])
        self._folder, self._seconds = options["folder"], options["seconds"]
        self._changes = [torch.randn_like(w) * _CHANGE for w in self._network.parameters()]

    def _fit(self, round_number: int, stage: str, *randomness: str | int) -> tuple[float, int]:
        started = time.monotonic()
        with torch.no_grad():
            for weight, change in zip(self._network.parameters(), self._changes, strict=True):
                weight.add_(change)
        _sleep_until(started + self._seconds)
        note(self._folder, self._site.name, TRAINED, round_number, started, time.monotonic())
        return 0.0, 1


class StandInExecutor(HospitalExecutor):
    """The real Executor with a hospital that sleeps instead of taking optimiser steps.

    Args:
        folder: of the files.
        seconds: duration of the steps.
    """

    hospital = f"{__name__}:{StandInHospital.__name__}"

    def __init__(self, folder: str, seconds: float):
        super().__init__()
        os.environ[_STAND_IN] = json.dumps({"folder": folder, "seconds": seconds})


class StockExecutor(Executor):
    """A minimal Executor for stock FLARE.

    Args:
        folder: of the files.
        seconds: duration of its training.
    """

    def __init__(self, folder: str, seconds: float):
        super().__init__()
        self._folder, self._seconds = folder, seconds
        self._changes: dict[str, torch.Tensor] = {}

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Registers the tensor codec."""
        if event_type == EventType.START_RUN:
            fobs.register(TensorDecomposer)

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        """Sleeps, then sends the change that was computed in the first round."""
        weights = from_shareable(shareable).data
        if not self._changes:
            self._changes = {name: _change_of(weight) for name, weight in weights.items()}
        started = time.monotonic()
        _sleep_until(started + self._seconds)
        round_number = shareable.get_header(AppConstants.CURRENT_ROUND)
        name = fl_ctx.get_identity_name()
        note(self._folder, name, TRAINED, round_number, started, time.monotonic())
        meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: 1}
        return DXO(DataKind.WEIGHT_DIFF, dict(self._changes), meta).to_shareable()


def _change_of(weight: torch.Tensor) -> torch.Tensor:
    if weight.is_floating_point():
        return torch.randn_like(weight) * _CHANGE
    return torch.zeros_like(weight)


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))
