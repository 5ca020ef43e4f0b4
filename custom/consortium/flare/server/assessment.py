"""The workflow after the rounds: FLARE's tasks carry what `Evaluations` asks.

Every hospital that is connected is asked; who does not answer is on record.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from torch import Tensor

from consortium.flare.server.answers import (
    answer_from_shareable,
    metrics_from_shareable,
    model_to_shareable,
)
from consortium.flare.server.study import StudyWorkflow
from consortium.flare.wire import drop_arrays
from consortium.protocol.codec import digest
from consortium.protocol.requests import ANSWERED_BY_UPDATES, WITHOUT


class _Aborted(Exception):
    """FLARE ends the job; not an error."""


class Assessment(StudyWorkflow):
    """Scores the model that the run leaves at every hospital; then, where the job asks, the
    confounding probe, the baseline and the cross-site evaluation.

    Args:
        study: id of the `StudyRun` component.
        timeout: seconds after which a hospital that has not answered is on record as such;
            0 waits for as long as the hospital is connected.
    """  # noqa: D205

    def __init__(self, study: str = "study", timeout: int = 0):
        super().__init__(study)
        self._timeout = timeout

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Asks one question after the other."""
        study = self.study(fl_ctx)
        border = threading.Lock()  # answers come in FLARE's threads and are taken one at a time

        def ask(
            request: str,
            model: Mapping[str, Tensor],
            targets: Sequence[str],
            take: Callable[[str, Any], object],
            **meta: int,
        ) -> None:
            if abort_signal.triggered:
                raise _Aborted
            # A hospital trains without another one next to the run, and keeps no state of that.
            pipeline = study.pipeline.without_state() if request == WITHOUT else study.pipeline

            def read(answer: Shareable, name: str) -> Any:
                if request in ANSWERED_BY_UPDATES:
                    return answer_from_shareable(answer, name, pipeline)
                return metrics_from_shareable(answer, name)

            def receive(client_task: ClientTask, fl_ctx: FLContext) -> None:
                name, result = client_task.client.name, client_task.result
                client_task.result = None
                with border:
                    take(name, read(result, name))

            connected = {client.name for client in fl_ctx.get_engine().get_clients()}
            asked = [name for name in targets if name in connected]
            data = model_to_shareable(model, base_sha256=digest(model), **meta)
            task = Task(name=request, data=data, timeout=self._timeout, result_received_cb=receive)
            self.broadcast_and_wait(
                task,
                fl_ctx,
                targets=asked,
                min_responses=len(asked),
                abort_signal=abort_signal,
            )
            drop_arrays(data)
            if abort_signal.triggered:
                raise _Aborted

        def assess() -> None:
            with suppress(_Aborted):
                study.evaluations.ask_all(ask)

        study.guard(assess, fl_ctx)
