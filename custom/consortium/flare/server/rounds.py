"""The workflow of the rounds: `consortium.orchestration.rounds` between FLARE's tasks and a clock.

Hospitals' answers come in FLARE's threads; they are taken there, one at a time, and what follows
from them is done in the workflow's own thread, which waits for nothing but the next event.
"""

import threading
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
from consortium.flare.server.answers import answer_from_shareable, model_to_shareable
from consortium.flare.server.study import StudyWorkflow
from consortium.flare.wire import drop_arrays
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
from consortium.server.run import TrainingRun

_Event = Callable[[Rounds], list[Action]]
_ABORT = 0.5  # seconds between two looks whether FLARE ends the job


class StudyRounds(StudyWorkflow):
    """Trains the model round by round, as the study's quorum declares.

    Args:
        study: id of the `StudyRun` component.
    """

    def __init__(self, study: str = "study"):
        super().__init__(study)
        self._events: SimpleQueue[_Event] = SimpleQueue()
        self._border = threading.Lock()  # an answer is not taken while a round is closed
        self._asked: dict[str, float] = {}
        self._standing: list[Task] = []
        self._missed: dict[str, str] = {}  # FLARE's id of what a hospital was asked: who
        self._opened = -1

    def process_result_of_unknown_task(
        self,
        client: Client,
        task_name: str,
        client_task_id: str,
        result: Shareable,
        fl_ctx: FLContext,
    ) -> None:
        """An answer that came after its round had closed: refused, and on record as late."""
        if task_name == TRAIN:
            with self._border:
                study = self.study(fl_ctx)
                answer = answer_from_shareable(result, client.name, study.pipeline)
                study.run.submit(answer)

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Listens to hospitals that ask whether their answer is still wanted."""
        look_up = self.communicator.process_task_check

        def look_up_and_note(task_id: str, fl_ctx: FLContext) -> ClientTask | None:
            late = self._missed.pop(task_id, None)
            if late is not None:  # so that it does not send for nothing what may be large
                self._events.put(partial(self._come_late, late, self.study(fl_ctx).run))
                return None
            found: ClientTask | None = look_up(task_id=task_id, fl_ctx=fl_ctx)
            return found

        self.communicator.process_task_check = look_up_and_note

    def _come_late(self, name: str, run: TrainingRun, rounds: Rounds) -> list[Action]:
        """A hospital has its answer when its round has closed."""
        with self._border:
            run.late(name)
        return []

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Runs the rounds that are not done."""
        study = self.study(fl_ctx)
        study.guard(lambda: self._lead(study.run, abort_signal, fl_ctx), fl_ctx)

    def _lead(self, run: TrainingRun, abort: Signal, fl_ctx: FLContext) -> None:
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
                        self._ask(run, number, hospitals, fl_ctx)
                    case Timer(number=timer, seconds=seconds):
                        due = time.monotonic() + seconds
                    case Close(round=number, missing=missing):
                        timer, due = 0, float("inf")
                        self._close(run, number, missing, fl_ctx)
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
        self, run: TrainingRun, number: int, hospitals: tuple[str, ...], fl_ctx: FLContext
    ) -> None:
        fl_ctx.set_prop(AppConstants.CURRENT_ROUND, number, private=True, sticky=True)
        if self._opened != number:
            self._opened = number
            self.fire_event(AppEventType.ROUND_STARTED, fl_ctx)
            with self._border:
                run.open_round()
        connected = {client.name for client in fl_ctx.get_engine().get_clients()}
        there = [name for name in hospitals if name in connected]
        for name in hospitals:
            if name not in there:
                code = "left-out" if name in run.state.study.left_out else NOT_CONNECTED
                with self._border:
                    run.submit(Failure(name, code))
                self._events.put(partial(_fail, number, name, code))
        self._asked.update(dict.fromkeys(there, time.monotonic()))
        if there:
            data = model_to_shareable(
                run.state.model, round=number, base_sha256=run.state.model_sha256
            )
            task = Task(name=TRAIN, data=data, result_received_cb=self._take)
            task.props["round"] = number
            self._standing.append(task)
            self.broadcast(task, fl_ctx, targets=there, min_responses=len(there))

    def _take(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        """Takes a hospital's answer, in a thread of FLARE's."""
        name, number = client_task.client.name, client_task.task.props["round"]
        study = self.study(fl_ctx)
        answer = answer_from_shareable(client_task.result, name, study.pipeline)
        client_task.result = None
        with self._border:
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
        self, run: TrainingRun, number: int, missing: tuple[str, ...], fl_ctx: FLContext
    ) -> None:
        self.fire_event(AppEventType.BEFORE_AGGREGATION, fl_ctx)
        for task in self._standing:
            asked = {each.id: each.client.name for each in task.client_tasks}
            self._missed |= {task_id: name for task_id, name in asked.items() if name in missing}
        self._cancel(fl_ctx)
        with self._border:
            run.close_round()
        self.fire_event(AppEventType.ROUND_DONE, fl_ctx)
        self.log_info(fl_ctx, f"round {number + 1} of {run.settings.rounds} is closed")

    def _cancel(self, fl_ctx: FLContext) -> None:
        """Takes back what no longer counts; a hospital that works on it ends that by itself."""
        for task in self._standing:
            self.cancel_task(task, fl_ctx=fl_ctx)
            drop_arrays(task.data)
        self._standing.clear()


def _fail(number: int, hospital: str, code: str, rounds: Rounds) -> list[Action]:
    return rounds.failed(number, hospital, code)
