"""The hospital's side: FLARE's tasks in, answers of `consortium.client` out.

What always holds: nothing but an update, metrics or a failure's code leaves; the text of an error
is written to the hospital's own `errors.log` and to nowhere else, for FLARE streams a site's own
logs to the server unless the site forbids it; an abort is obeyed within one batch;
training runs in a process of its own, so that its crash costs a second try and not the job; and an
update leaves as the job's pipeline makes it.
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
from consortium.flare.array_streaming import make_arrays, place_arrays, register_arrays
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
from consortium.protocol.metrics import Metrics
from consortium.protocol.pipeline import Pipeline, build_pipeline
from consortium.protocol.requests import call_of


class HospitalExecutor(Executor):
    """Answers `train`, `validate`, `baseline`, `local_model`, `without` and `confounding`.

    Attributes:
        hospital: where the class is that trains; no job can say it.
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
        """Starts the process that trains with the job, and ends it with the job."""
        if event_type == EventType.START_RUN:
            register_arrays()
            try:
                self._open(fl_ctx)
            except Exception as error:  # said again in answer to the first task
                self._log.error("error %s", failure_of(error, "").code)
        elif event_type == EventType.END_RUN and self._trainer is not None:
            place_arrays(make_arrays)
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
                "not-shared", "this hospital shows its model to nobody", task_name, "ask it"
            )
        call = call_of(task_name, meta)
        if call is None:
            raise UsageError(
                "unknown-task", "no such task", task_name, "use the job's own configuration"
            )
        method, arguments = call
        found = trainer.ask(method, model, lambda: abort.triggered, **arguments)
        if isinstance(found, Metrics):
            return metrics_to_shareable(found)
        # The rounds of a training without one hospital have the numbers of the run's own rounds.
        pipeline = (
            self._pipeline.without_state() if task_name == requests.WITHOUT else self._pipeline
        )
        return update_to_shareable(*pipeline.client(*found, site.state))

    def _open(self, fl_ctx: FLContext) -> tuple[TrainerProcess, Site]:
        if self._trainer is None or self._site is None:
            job = read_job(fl_ctx)
            self._site = find_site(job, fl_ctx)
            self._pipeline = build_pipeline(job.settings.update)
            self._trainer = TrainerProcess(self.hospital, self._site, job.settings)
            place_arrays(self._trainer.make)
        return self._trainer, self._site

    def _folder(self, fl_ctx: FLContext) -> Path:
        """Where the people at the hospital look for what went wrong."""
        if self._site is not None:
            return self._site.state
        workspace = fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT)
        return Path(workspace.get_root_dir()) / "consortium"
