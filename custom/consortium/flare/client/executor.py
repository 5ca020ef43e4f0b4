"""The hospital's side: answers FLARE's tasks with the results of `consortium.client`.

Invariants: only an update, metrics or a failure's code leaves. The text of an error is written only
to the hospital's own `errors.log`, because FLARE streams a site's logs to the server unless the
site forbids it. An abort stops the work within one batch. Training runs in a process of its own, so
that a crash costs a second attempt and not the job. An update leaves only through the job's
pipeline.
"""

import logging
from pathlib import Path

from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal

from consortium.client.process import Failed, Stopped, TrainerProcess
from consortium.core.errors import Refused, UsageError, failure_of
from consortium.core.site_policy import ERRORS, Site, note_error
from consortium.flare.array_streaming import allocate_arrays_by, register_arrays
from consortium.flare.client.site import find_site
from consortium.flare.job import read_job
from consortium.flare.wire import (
    drop_arrays,
    failure_to_shareable,
    metrics_to_shareable,
    model_from_shareable,
    update_to_shareable,
)
from consortium.protocol import requests
from consortium.protocol.buffers import make_buffers
from consortium.protocol.metrics import Metrics
from consortium.protocol.pipeline import Pipeline, build_pipeline
from consortium.protocol.requests import call_of


class HospitalExecutor(Executor):
    """Answers `train`, `validate`, `baseline`, `local_model`, `without` and `confounding`.

    Attributes:
        hospital: the trainer's class as `module:name`; no job can set it.
    """

    hospital = "consortium.client.trainer:LocalTrainer"

    def __init__(self) -> None:
        super().__init__()
        self._site: Site | None = None
        self._trainer: TrainerProcess | None = None
        self._pipeline = Pipeline()
        self._sent: Shareable = Shareable()
        self._log = logging.getLogger(__name__)

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Starts the trainer process with the job, and ends it with the job."""
        if event_type == EventType.START_RUN:
            register_arrays()
            try:
                self._open(fl_ctx)
            except Exception as error:  # reported again in answer to the first task
                self._log.error("error %s", failure_of(error, "").code)
        elif event_type == EventType.END_RUN and self._trainer is not None:
            allocate_arrays_by(make_buffers)
            self._trainer.close()

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        """Answers one task; see `Executor`."""
        drop_arrays(self._sent)  # their memory is for the next answer
        try:
            self._sent = self._answer(task_name, shareable, fl_ctx, abort_signal)
            return self._sent
        except Stopped:
            return make_reply(ReturnCode.TASK_ABORTED)
        except Exception as error:  # every error is answered, so that no round waits for this site
            failure = failure_of(error, fl_ctx.get_identity_name())
            self._log.error("error %s: see the hospital's own %s", failure.code, ERRORS)
            if not isinstance(error, Failed):
                note_error(self._folder(fl_ctx), error)
            return failure_to_shareable(failure)

    def _answer(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort: Signal
    ) -> Shareable:
        trainer, site = self._open(fl_ctx)
        model, meta = model_from_shareable(shareable)
        if task_name == requests.LOCAL_MODEL and not site.share_local_model:
            raise Refused(
                "not-shared",
                "this hospital does not share its model",
                task_name,
                "ask the hospital",
            )
        call = call_of(task_name, meta)
        if call is None:
            raise UsageError(
                "unknown-task", "no such task", task_name, "use the job's own configuration"
            )
        method, arguments = call
        result = trainer.ask(method, model, lambda: abort.triggered, **arguments)
        if isinstance(result, Metrics):
            return metrics_to_shareable(result)
        # The rounds of a training without one hospital reuse the numbers of the run's own rounds.
        pipeline = (
            self._pipeline.without_state() if task_name == requests.WITHOUT else self._pipeline
        )
        return update_to_shareable(*pipeline.client(*result, site.state))

    def _open(self, fl_ctx: FLContext) -> tuple[TrainerProcess, Site]:
        if self._trainer is None or self._site is None:
            job = read_job(fl_ctx)
            self._site = find_site(job, fl_ctx)
            self._pipeline = build_pipeline(job.settings.update)
            self._trainer = TrainerProcess(self.hospital, self._site, job.settings)
            allocate_arrays_by(self._trainer.make)
        return self._trainer, self._site

    def _folder(self, fl_ctx: FLContext) -> Path:
        """Returns the folder of the hospital's `errors.log`."""
        if self._site is not None:
            return self._site.state
        workspace = fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT)
        return Path(workspace.get_root_dir()) / "consortium"
