"""The workflow after the rounds: sends the requests of `Evaluations` as FLARE's tasks.

Every connected hospital is asked, and missing answers are recorded.
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

from consortium.flare.server.answers import metrics_from_shareable, model_to_shareable
from consortium.flare.server.study import StudyWorkflow
from consortium.flare.wire import drop_arrays
from consortium.protocol.codec import digest
from consortium.protocol.requests import ANSWERED_BY_UPDATES, WITHOUT


class _Aborted(Exception):
    """FLARE is ending the job; not an error."""


class Assessment(StudyWorkflow):
    """Runs the evaluations after the rounds: the final scoring and those that the job asks for.

    Args:
        study: id of the `StudyRun` component.
        timeout: seconds after which a hospital's answer is recorded as missing; 0 waits for as long
            as the hospital is connected.
    """

    def __init__(self, study: str = "study", timeout: int = 0):
        super().__init__(study)
        self._timeout = timeout

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Sends one request after the other."""
        study = self.study(fl_ctx)
        study.workflow = self
        # Answers arrive in FLARE's threads and are recorded one at a time.
        answer_lock = threading.Lock()

        def ask(
            request: str,
            model: Mapping[str, Tensor],
            targets: Sequence[str],
            take: Callable[[str, Any], object],
            **meta: int,
        ) -> None:
            if abort_signal.triggered:
                raise _Aborted
            # Hospitals keep no state of the training without one of them.
            pipeline = study.pipeline.without_state() if request == WITHOUT else study.pipeline

            def read(answer: Shareable, name: str) -> Any:
                if request in ANSWERED_BY_UPDATES:
                    return study.read_answer(answer, name, pipeline)
                return metrics_from_shareable(answer, name)

            def receive(client_task: ClientTask, fl_ctx: FLContext) -> None:
                name, result = client_task.client.name, client_task.result
                client_task.result = None
                with answer_lock:
                    take(name, read(result, name))

            connected = {client.name for client in fl_ctx.get_engine().get_clients()}
            asked = [name for name in targets if name in connected]
            data = model_to_shareable(model, base_sha256=digest(model), **meta)
            task = Task(name=request, data=data, timeout=self._timeout, result_received_cb=receive)
            self._open_tasks = [task]
            self.broadcast_and_wait(
                task,
                fl_ctx,
                targets=asked,
                min_responses=len(asked),
                abort_signal=abort_signal,
            )
            self._open_tasks = []
            drop_arrays(data)
            if abort_signal.triggered:
                raise _Aborted

        def assess() -> None:
            with suppress(_Aborted):
                study.evaluations.ask_all(ask)

        study.guard(assess, fl_ctx)
