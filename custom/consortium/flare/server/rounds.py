"""The workflow of the rounds: connects `consortium.orchestration.rounds` to FLARE and the clock.

Hospitals' answers arrive in FLARE's threads, which submit them one at a time. The workflow's own
thread acts on them; it waits only for the next event.
"""

import time
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue

from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType

from consortium.core.errors import Failure, Incomplete
from consortium.flare.server.answers import model_to_shareable
from consortium.flare.server.study import StudyRun, StudyWorkflow
from consortium.flare.wire import drop_arrays
from consortium.orchestration.exclusion import LEFT_OUT
from consortium.orchestration.rounds import (
    NOT_CONNECTED,
    Action,
    Ask,
    Close,
    Rounds,
    Stop,
    Timer,
)
from consortium.protocol.requests import TRAIN

_Event = Callable[[Rounds], list[Action]]
_ABORT = 0.5  # seconds between two checks whether FLARE ends the job


class StudyRounds(StudyWorkflow):
    """Trains the model round by round, as the study's quorum declares.

    Args:
        study: id of the `StudyRun` component.
    """

    def __init__(self, study: str = "study"):
        super().__init__(study)
        self._events: SimpleQueue[_Event] = SimpleQueue()
        self._asked: dict[str, float] = {}
        self._missed: dict[str, str] = {}  # FLARE's id of a hospital's task: the hospital
        self._opened = -1

    def process_result_of_unknown_task(
        self,
        client: Client,
        task_name: str,
        client_task_id: str,
        result: Shareable,
        fl_ctx: FLContext,
    ) -> None:
        """Refuses an answer to a closed round, and records it as late."""
        if task_name == TRAIN:
            study = self.study(fl_ctx)
            answer = study.read_answer(result, client.name)
            with study.lock:
                study.run.submit(answer)

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Intercepts hospitals' checks whether their task is still open."""
        look_up = self.communicator.process_task_check

        def look_up_and_note(task_id: str, fl_ctx: FLContext) -> ClientTask | None:
            late = self._missed.pop(task_id, None)
            if late is not None:  # the hospital then does not send a large answer for nothing
                self._events.put(partial(self._record_late, late, self.study(fl_ctx)))
                return None
            task: ClientTask | None = look_up(task_id=task_id, fl_ctx=fl_ctx)
            return task

        self.communicator.process_task_check = look_up_and_note

    def _record_late(self, name: str, study: StudyRun, rounds: Rounds) -> list[Action]:
        """Records that a hospital's answer is ready only after its round has closed."""
        with study.lock:
            study.run.record_late(name)
        return []

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Runs the remaining rounds."""
        study = self.study(fl_ctx)
        study.workflow = self
        study.guard(lambda: self._run_rounds(study, abort_signal, fl_ctx), fl_ctx)

    def _run_rounds(self, study: StudyRun, abort: Signal, fl_ctx: FLContext) -> None:
        run = study.run
        if run.state.run.stopped_early:
            return
        settings = run.settings
        rounds = Rounds(run.quorum, settings.rounds, settings.seed, done=run.state.rounds_done)
        timer, due = 0, float("inf")
        actions = rounds.begin()
        while not abort.triggered:
            following: list[Action] = []
            for action in actions:
                match action:
                    case Ask(round=number, hospitals=hospitals):
                        self._ask(study, number, hospitals, fl_ctx)
                    case Timer(number=timer, seconds=seconds):
                        due = time.monotonic() + seconds
                    case Close(round=number, missing=missing):
                        timer, due = 0, float("inf")
                        self._close(study, number, missing, fl_ctx)
                        following = rounds.closed(stop=run.state.run.stopped_early)
                    case Stop(reason=reason):
                        self._cancel(fl_ctx)
                        if reason:
                            raise Incomplete("no-quorum", reason)
                        return
            actions = following
            if not actions:
                try:
                    wait = min(_ABORT, max(0.0, due - time.monotonic()))
                    actions = self._events.get(timeout=wait)(rounds)
                except Empty:
                    if time.monotonic() >= due:
                        due = float("inf")
                        actions = rounds.time_up(timer)
        self._cancel(fl_ctx)

    def _ask(
        self, study: StudyRun, number: int, hospitals: tuple[str, ...], fl_ctx: FLContext
    ) -> None:
        run = study.run
        fl_ctx.set_prop(AppConstants.CURRENT_ROUND, number, private=True, sticky=True)
        if self._opened != number:
            self._opened = number
            self.fire_event(AppEventType.ROUND_STARTED, fl_ctx)
            with study.lock:
                run.open_round()
        left_out = set(run.left_out)
        sites = {client.name for client in fl_ctx.get_engine().get_clients()} - left_out
        connected = [name for name in hospitals if name in sites]
        for name in hospitals:
            if name not in connected:
                code = LEFT_OUT if name in left_out else NOT_CONNECTED
                with study.lock:
                    run.submit(Failure(name, code))
                self._events.put(partial(_fail, number, name, code))
        self._asked.update(dict.fromkeys(connected, time.monotonic()))
        if connected:
            data = model_to_shareable(
                run.state.model, round=number, base_sha256=run.state.model_sha256
            )
            task = Task(name=TRAIN, data=data, result_received_cb=self._take)
            task.props["round"] = number
            self._open_tasks.append(task)
            self.broadcast(task, fl_ctx, targets=connected, min_responses=len(connected))

    def _take(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        """Submits a hospital's answer, in a thread of FLARE's."""
        name, number = client_task.client.name, client_task.task.props["round"]
        study = self.study(fl_ctx)
        answer = study.read_answer(client_task.result, name)
        client_task.result = None
        with study.lock:
            refusal = study.run.submit(answer)
        if isinstance(answer, Failure):
            self._events.put(partial(_fail, number, name, answer.code))
        elif refusal is not None:
            self.log_warning(fl_ctx, str(refusal))
            self._events.put(partial(_fail, number, name, refusal.code))
        else:
            seconds = time.monotonic() - self._asked[name]
            self._events.put(lambda rounds: rounds.answered(number, name, seconds))
        fl_ctx.set_prop(AppConstants.CURRENT_ROUND, number, private=True, sticky=False)
        self.fire_event(AppEventType.AFTER_CONTRIBUTION_ACCEPT, fl_ctx)

    def _close(
        self, study: StudyRun, number: int, missing: tuple[str, ...], fl_ctx: FLContext
    ) -> None:
        run = study.run
        self.fire_event(AppEventType.BEFORE_AGGREGATION, fl_ctx)
        for task in self._open_tasks:
            asked = {client_task.id: client_task.client.name for client_task in task.client_tasks}
            self._missed |= {task_id: name for task_id, name in asked.items() if name in missing}
        self._cancel(fl_ctx)
        with study.lock:
            run.close_round()
        self.fire_event(AppEventType.ROUND_DONE, fl_ctx)
        self.log_info(fl_ctx, f"round {number + 1} of {run.settings.rounds} is closed")

    def _cancel(self, fl_ctx: FLContext) -> None:
        """Cancels the open tasks; a hospital that works on one stops by itself."""
        for task in self._open_tasks:
            self.cancel_task(task, fl_ctx=fl_ctx)
            drop_arrays(task.data)
        self._open_tasks.clear()


def _fail(number: int, hospital: str, code: str, rounds: Rounds) -> list[Action]:
    return rounds.failed(number, hospital, code)
