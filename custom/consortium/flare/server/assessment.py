"""The workflow after the rounds: the final model is scored, and what else the job asks.

Every hospital of the study is asked; whoever does not answer is on record.
"""

import threading
from collections.abc import Callable, Mapping, Sequence

from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from torch import Tensor

from consortium.core.errors import Failure, Incomplete
from consortium.flare.server.answers import (
    answer_from_shareable,
    metrics_from_shareable,
    model_to_shareable,
)
from consortium.flare.server.study import StudyWorkflow
from consortium.flare.task_names import (
    BASELINE,
    CONFOUNDING,
    LOCAL_MODEL,
    VALIDATE,
    WITHOUT,
)
from consortium.flare.wire import drop_arrays
from consortium.protocol.codec import digest
from consortium.protocol.metrics import Metrics
from consortium.protocol.pipeline import Pipeline, build_pipeline
from consortium.server.run import ALONE, FINAL, Coordinator


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
        study.guard(lambda: self._assess(study.coordinator, abort_signal, fl_ctx), fl_ctx)

    def _assess(self, coordinator: Coordinator, abort: Signal, fl_ctx: FLContext) -> None:
        settings = coordinator.settings
        pipeline = build_pipeline(settings.update)
        ask = _Questions(self, coordinator.run.hospitals, self._timeout, abort, fl_ctx)
        answers = ask.model(VALIDATE, coordinator.final_model)
        if abort.triggered:
            return
        coordinator.answer(FINAL, _metrics(answers))
        if settings.probe is not None:
            answers = ask.model(CONFOUNDING, coordinator.final_model)
            if not abort.triggered:
                coordinator.answer_confounding(_metrics(answers))
        for hospital in coordinator.to_leave_out:
            if not abort.triggered:
                _train_without(hospital, coordinator, ask, pipeline.without_state(), abort)
        if settings.baseline:
            rounds = coordinator.rounds_done
            answers = ask.model(BASELINE, coordinator.start_model, rounds=rounds)
            if not abort.triggered:
                coordinator.answer(ALONE, _metrics(answers))
        if settings.cross_site and not abort.triggered:
            trained: dict[str, Mapping[str, Tensor] | None] = {}

            def take(name: str, said: Shareable) -> None:
                answer = answer_from_shareable(said, name, pipeline)
                trained[name] = coordinator.local_model(answer)

            ask.model(LOCAL_MODEL, coordinator.model, take=take, round=coordinator.rounds_done)
            for hospital, model in sorted(trained.items()):
                if model is not None and not abort.triggered:
                    answers = ask.model(VALIDATE, model)
                    coordinator.answer_cross_site(hospital, _metrics(answers))


def _train_without(
    hospital: str,
    coordinator: Coordinator,
    ask: "_Questions",
    pipeline: Pipeline,
    abort: Signal,
) -> None:
    """Trains the model again without a hospital, and has it scored there."""
    other = coordinator.without(hospital)
    try:
        while not (other.is_done or abort.triggered):
            number, _ = other.open_round()
            ask.model(
                WITHOUT,
                other.model,
                targets=other.asked,
                take=lambda name, said: other.submit(answer_from_shareable(said, name, pipeline)),
                round=number,
            )
            if not abort.triggered:
                other.close_round()
    except Incomplete as incomplete:
        coordinator.answer_without(hospital, incomplete.code)
        return
    if not abort.triggered:
        answers = ask.model(VALIDATE, other.final_model, targets=[hospital])
        coordinator.answer_without(hospital, _metrics(answers).get(hospital))


class _Questions:
    """Asks the hospitals of the study that are connected and waits for their answers."""

    def __init__(
        self,
        controller: Controller,
        hospitals: Sequence[str],
        timeout: int,
        abort: Signal,
        fl_ctx: FLContext,
    ):
        self._controller, self._hospitals, self._timeout = controller, hospitals, timeout
        self._abort, self._fl_ctx = abort, fl_ctx
        self._border = threading.Lock()

    def model(
        self,
        task: str,
        model: Mapping[str, Tensor],
        *,
        targets: Sequence[str] | None = None,
        take: Callable[[str, Shareable], object] | None = None,
        **meta: int,
    ) -> dict[str, Shareable]:
        """Hands out a model with a task.

        Args:
            task: of the executor.
            model: goes with it.
            targets: who is asked; all by default.
            take: is given each answer as it comes, one at a time, instead of keeping it.
            meta: goes with the model.

        Returns:
            What came back and was not taken, by hospital.
        """
        answers: dict[str, Shareable] = {}
        connected = {client.name for client in self._fl_ctx.get_engine().get_clients()}
        asked = [name for name in targets or self._hospitals if name in connected]
        if not asked:
            return answers

        def keep(client_task: ClientTask, fl_ctx: FLContext) -> None:
            name, said = client_task.client.name, client_task.result
            client_task.result = None
            if take is None:
                answers[name] = said
            else:
                with self._border:
                    take(name, said)

        data = model_to_shareable(model, base_sha256=digest(model), **meta)
        self._controller.broadcast_and_wait(
            Task(
                name=task,
                data=data,
                timeout=self._timeout,
                result_received_cb=keep,
            ),
            self._fl_ctx,
            targets=asked,
            min_responses=len(asked),
            abort_signal=self._abort,
        )
        drop_arrays(data)
        return answers


def _metrics(answers: dict[str, Shareable]) -> dict[str, Metrics | Failure]:
    return {name: metrics_from_shareable(said, name) for name, said in answers.items()}
