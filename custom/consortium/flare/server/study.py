"""The orchestrator's components, which share one run.

`StudyRun` holds the run. The workflows of `rounds` and `assessment` use it, and so can FLARE's own
`ScatterAndGather`, through the aggregator, the persistor and the shareable generator here. FLARE
swallows exceptions of event handlers, so `StudyRun.guard` stops the job for them and keeps the
reason for `result.json`.
"""

import contextlib
import gc
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

from nvflare.apis.client import Client
from nvflare.apis.controller_spec import Task
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.aggregator import Aggregator
from nvflare.app_common.abstract.learnable import Learnable
from nvflare.app_common.abstract.learnable_persistor import LearnablePersistor
from nvflare.app_common.abstract.model import ModelLearnable, make_model_learnable
from nvflare.app_common.abstract.shareable_generator import ShareableGenerator
from nvflare.app_common.workflows.scatter_and_gather import ScatterAndGather

from consortium.core.errors import ConsortiumError, Failure, Refused, UsageError
from consortium.core.files import as_readable, lock_file, write_text
from consortium.core.names import is_hospital_name
from consortium.flare.array_streaming import limit_arrays, limit_senders, register_arrays
from consortium.flare.job import (
    TROUBLE,
    Job,
    is_simulation,
    read_job,
    result_folders,
    run_folder,
)
from consortium.flare.parent.outcome import note_outcome
from consortium.flare.server.answers import answer_from_shareable, model_to_shareable
from consortium.flare.server.intake import Intake, receive_answers
from consortium.kits.orchestrator import read_orchestrator
from consortium.orchestration.owners import claim_run
from consortium.orchestration.quorum import declare_quorum
from consortium.orchestration.suspects import AnswersBeingRead
from consortium.protocol.pipeline import Pipeline, build_pipeline
from consortium.protocol.update import Update, UpdateRefused
from consortium.server.evaluations import Evaluations
from consortium.server.rendering import Renderer
from consortium.server.results import add_note, write_results
from consortium.server.run import TrainingRun
from consortium.server.start_model import LoadStart, StartModels, load_local
from consortium.server.state import Study

T = TypeVar("T")
_LOCK_TIMEOUT = 60.0  # seconds that another process may take to release the checkpoints
_MORE_VALUES = 1 << 20
"""Elements that an update may declare beyond those of the model, to be refused with its reason."""
_MOST_REFUSALS = 100  # of a hospital in a round; its further answers are not read


class StudyRun(FLComponent):
    """Holds the run of this job.

    Args:
        training: id of the workflow of the rounds. If it is a `ScatterAndGather`, its first round
            and number of rounds are set from the checkpoints and the job's settings.

    Attributes:
        lock: held while the run is changed; answers arrive in FLARE's threads.
        workflow: the workflow that sends tasks now, if it is one of ours.
    """

    def __init__(self, training: str = "training"):
        super().__init__()
        self.lock = threading.RLock()
        self.workflow: StudyWorkflow | None = None
        self._training_id = training
        self._run: TrainingRun | None = None
        self._evaluations: Evaluations | None = None
        self._renderer: Renderer | None = None
        self._trouble = ""
        self._stopped = False
        self._results: Path | None = None
        self._lock: IO[str] | None = None
        self._log = logging.getLogger(__name__)

    @property
    def run(self) -> TrainingRun:
        """The rounds.

        Raises:
            UsageError: the run could not be opened; the reason was logged.
        """
        if self._run is None:
            raise UsageError("no-run", "the run could not be opened", "", self._trouble)
        return self._run

    @property
    def evaluations(self) -> Evaluations:
        """The evaluations after the rounds.

        Raises:
            UsageError: see `run`.
        """
        if self._evaluations is None:
            raise UsageError("no-run", "the run could not be opened", "", self._trouble)
        return self._evaluations

    @property
    def pipeline(self) -> Pipeline:
        """The steps that hospitals apply to their updates.

        Raises:
            UsageError: see `run`.
        """
        return build_pipeline(self.run.settings.update)

    def read_answer(
        self, shareable: Shareable, sender: str, pipeline: Pipeline | None = None
    ) -> Update | UpdateRefused | Failure:
        """Decodes a hospital's answer to a round.

        Args:
            shareable: as received.
            sender: the hospital as the channel authenticated it.
            pipeline: the steps that the hospital applied; by default those of the run's rounds.
        """
        pipeline = self.pipeline if pipeline is None else pipeline
        most = self.run.update_values + _MORE_VALUES
        return answer_from_shareable(shareable, sender, pipeline, most)

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Opens the run when the job starts and writes its results when it ends."""
        if event_type == EventType.START_RUN:
            register_arrays()
            self.guard(lambda: self._open(fl_ctx), fl_ctx)
            # FLARE collects garbage after every round. The objects that exist now live as long as
            # the process, and scanning all of them took longer than aggregating.
            gc.collect()
            gc.freeze()
        elif event_type == EventType.END_RUN:
            result = None
            if self._run is not None:
                result = self.guard(self._finish, fl_ctx)
            complete = result is not None and result["complete"]
            reason = result["reason"] if result is not None else self._trouble
            note_outcome(fl_ctx, complete=complete, reason=reason, stopped=self._stopped)
        elif event_type == EventType.FATAL_SYSTEM_ERROR:
            # Also FLARE's own reasons, such as a hospital's process that died.
            self._trouble = self._trouble or _one_line(fl_ctx.get_prop(FLContextKey.EVENT_DATA))

    def guard(self, work: Callable[[], T], fl_ctx: FLContext) -> T | None:
        """Runs `work`; ends the job with a reason for people if it fails."""
        try:
            return work()
        except Exception as raised:
            error = as_readable(raised)
            known = isinstance(error, ConsortiumError)
            self._log.error("%s", error, exc_info=not known)
            message = str(error).removeprefix("error ") if known else f"internal-error: {error!r}"
            self._trouble = self._trouble or _one_line(message)
            self._stopped = known
            if self._results is not None:
                with contextlib.suppress(ConsortiumError):
                    write_text(self._results / TROUBLE, f"{message}\n")
            self.system_panic(self._trouble, fl_ctx)
            return None

    def _open(self, fl_ctx: FLContext) -> None:
        job = read_job(fl_ctx)
        self._results, checkpoints = result_folders(job)
        load_start: LoadStart = load_local
        if not is_simulation():
            claim_run(run_folder(job.root, job.run), job.submitter)
            load_start = _start_models(job).load
        self._lock = _lock_checkpoints(checkpoints)
        engine = fl_ctx.get_engine()
        hospitals = job.hospitals or [client.name for client in engine.get_clients()]
        if not all(map(is_hospital_name, hospitals)):
            raise Refused("bad-hospital-name", "not a hospital's name", "a connected site")
        run = TrainingRun(
            Study(
                job.run,
                job.name,
                declare_quorum(hospitals, job.quorum),
                job.settings,
                job.left_out,
            ),
            results=self._results,
            checkpoints=checkpoints,
            load_start=load_start,
        )
        self._run, self._evaluations = run, Evaluations(run)
        self._renderer = Renderer(self._results, job.settings)
        limit_arrays(run.update_bytes)
        if not run.buffers_updates:
            limit_senders()
        for note in run.checkpoints.notes:
            self._log.warning("checkpoints: %s", note)
        self._receive_answers(engine, fl_ctx, checkpoints)
        training = engine.get_component(self._training_id)
        if isinstance(training, ScatterAndGather):
            self._set_rounds(training, fl_ctx)

    def _receive_answers(self, engine: Any, fl_ctx: FLContext, checkpoints: Path) -> None:
        sites = engine.server.client_manager.clients

        def hospital_of(token: str) -> str | None:
            site = sites.get(token)
            return None if site is None else str(site.name)

        def is_barred(name: str) -> bool:
            with self.lock:
                return self.run.refusals_of(name) >= _MOST_REFUSALS

        def refuse(name: str, code: str) -> None:
            with self.lock:
                self.run.submit(UpdateRefused(name, code))

        answers = AnswersBeingRead(checkpoints)
        intake = Intake(
            job_id=fl_ctx.get_job_id(),
            hospital_of=hospital_of,
            is_barred=is_barred,
            open_task=lambda name: self.workflow.open_task(name) if self.workflow else None,
            refuse=refuse,
            reading=answers.reading,
            decoding=answers.decoding,
        )
        # In the simulator the engine has the cell of the parent process.
        receive_answers(engine.server.command_agent.cell, intake)

    def _finish(self) -> dict[str, Any]:
        """Writes the results and waits for the page, because FLARE packs the folder right after."""
        try:
            result = write_results(self.run, self.evaluations, self._trouble)
            note = self._renderer.finish() if self._renderer is not None else ""
        finally:
            if self._renderer is not None:
                self._renderer.stop()
        if note:
            self._log.warning("%s", note)
            result = add_note(self.run.results, note)
        return result

    def _set_rounds(self, training: ScatterAndGather, fl_ctx: FLContext) -> None:
        run = self.run.state
        rounds = run.rounds_done if run.run.stopped_early else run.settings.rounds
        state = training.get_persist_state(fl_ctx)
        training.restore({**state, "num_rounds": rounds, "current_round": run.rounds_done}, fl_ctx)

    def close_round(self, fl_ctx: FLContext) -> None:
        """Closes the round, and makes it the last one if the selection stops the run."""
        self.run.close_round()
        if self.run.state.run.stopped_early:
            training = fl_ctx.get_engine().get_component(self._training_id)
            state = training.get_persist_state(fl_ctx)
            # FLARE keeps counting after this; restoring is its public way to change the count.
            rounds = self.run.state.rounds_done
            training.restore({**state, "num_rounds": rounds - state["start_round"]}, fl_ctx)


def _start_models(job: Job) -> StartModels:
    """Returns the models that a job in a federation may start from."""
    offered = read_orchestrator(job.root).models
    runs = run_folder(job.root, job.run).parent
    return StartModels(Path(offered) if offered else None, runs, job.submitter)


def _lock_checkpoints(checkpoints: Path) -> IO[str]:
    """Locks the checkpoints until this process ends.

    Raises:
        Refused: `checkpoints-in-use`.
    """
    checkpoints.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + _LOCK_TIMEOUT
    while True:
        lock = lock_file(checkpoints / ".lock")
        if lock is not None:
            return lock
        if time.monotonic() > deadline:
            raise Refused(
                "checkpoints-in-use",
                "another process uses the checkpoints",
                str(checkpoints),
                "end that process",
            )
        # The job before this one, whose parent died, is still ending.
        time.sleep(0.2)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())[:500]


class StudyPart(FLComponent):
    """A component that uses the run.

    Args:
        study: id of the `StudyRun` component.
    """

    def __init__(self, study: str = "study"):
        super().__init__()
        self._study_id = study

    def study(self, fl_ctx: FLContext) -> StudyRun:
        """Returns the component that holds the run.

        Raises:
            UsageError: the job's configuration has none.
        """
        study = fl_ctx.get_engine().get_component(self._study_id)
        if not isinstance(study, StudyRun):
            raise UsageError(
                "bad-job", "no such component", self._study_id, "keep the job's configuration"
            )
        return study


class StudyWorkflow(StudyPart, Controller):
    """A workflow that uses the run; by default it ignores late answers to its tasks."""

    def __init__(self, study: str = "study"):
        Controller.__init__(self)
        self._study_id = study
        self._open_tasks: list[Task] = []

    def open_task(self, hospital: str) -> tuple[str, str] | None:
        """Returns the name and id of the task that a hospital is asked to answer now."""
        for task in list(self._open_tasks):
            for asked in list(task.client_tasks):
                if asked.client.name == hospital and asked.result_received_time is None:
                    return task.name, asked.id
        return None

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Does nothing: there is nothing to prepare."""

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Does nothing: there is nothing to undo."""

    def process_result_of_unknown_task(
        self,
        client: Client,
        task_name: str,
        client_task_id: str,
        result: Shareable,
        fl_ctx: FLContext,
    ) -> None:
        """Ignores an answer that came too late."""


class ModelPersistor(StudyPart, LearnablePersistor):
    """Gives FLARE the run's model, which the checkpoints store."""

    def load(self, fl_ctx: FLContext) -> ModelLearnable:
        """Returns the model that the next round starts from."""
        return make_model_learnable(dict(self.study(fl_ctx).run.state.model), {})

    def save(self, learnable: Learnable, fl_ctx: FLContext) -> None:
        """Does nothing: a round is saved when it is closed."""


class ModelShareableGenerator(StudyPart, ShareableGenerator):
    """Opens a round with the model that it sends."""

    def learnable_to_shareable(self, model: Learnable, fl_ctx: FLContext) -> Shareable:
        """Returns the model, the round's number and the model's digest."""
        run = self.study(fl_ctx).run
        number, base_sha256 = run.open_round()
        return model_to_shareable(run.state.model, round=number, base_sha256=base_sha256)

    def shareable_to_learnable(self, shareable: Shareable, fl_ctx: FLContext) -> ModelLearnable:
        """Returns the model after the round."""
        return make_model_learnable(dict(self.study(fl_ctx).run.state.model), {})


class UpdateAggregator(StudyPart, Aggregator):
    """Accepts updates whole or not at all, and aggregates by the rule in the settings.

    When to use it: as the aggregator of `ScatterAndGather`. It sees every hospital's update, so it
    does not hide one from the orchestrator.
    """

    def accept(self, shareable: Shareable, fl_ctx: FLContext) -> bool:
        """Submits one hospital's answer; returns False if it is refused."""
        study = self.study(fl_ctx)
        sender = fl_ctx.get_peer_context().get_identity_name()
        answer = study.read_answer(shareable, sender)
        refusal = study.run.submit(answer)
        if refusal is not None:
            self.log_warning(fl_ctx, str(refusal))
        return refusal is None

    def aggregate(self, fl_ctx: FLContext) -> Shareable:
        """Closes the round; the run holds the new model."""
        study = self.study(fl_ctx)
        study.guard(lambda: study.close_round(fl_ctx), fl_ctx)
        return Shareable()
