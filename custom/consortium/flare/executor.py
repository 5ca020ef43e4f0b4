"""The hospital's side: FLARE's tasks in, answers of `consortium.training` out.

What always holds: nothing but an update, metrics or a failure's code leaves; the text of an error
is written to the hospital's own `errors.log` and to nowhere else, for FLARE streams a site's own
logs to the server unless the site forbids it; and an abort is obeyed within one batch.
"""

import contextlib
import json
import logging
import os
import time
import traceback
from datetime import datetime
from pathlib import Path

import torch
from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal

from consortium.errors import ConsortiumError, Refused, UsageError
from consortium.files import write_text
from consortium.flare.job import read_job, register_tensors
from consortium.flare.site import find_site
from consortium.flare.wire import (
    failure_to_shareable,
    metrics_to_shareable,
    model_from_shareable,
    update_to_shareable,
)
from consortium.training.train import Aborted, Hospital, Progress, Site
from consortium.update import failure_of

TRAIN, VALIDATE, ALONE, LOCAL_MODEL = "train", "validate", "baseline", "local_model"
ERRORS = "errors.log"
_PROGRESS_INTERVAL = 0.5  # seconds between two writes of the progress file


class HospitalExecutor(Executor):
    """Answers the tasks `train`, `validate`, `baseline` and `local_model` at a hospital."""

    def __init__(self) -> None:
        super().__init__()
        self._hospital: Hospital | None = None
        self._site: Site | None = None
        self._abort: Signal | None = None
        self._written = 0.0
        self._log = logging.getLogger(__name__)

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Registers the tensor codec before the first task arrives."""
        if event_type == EventType.START_RUN:
            register_tensors()

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        """Answers one task; see `Executor`."""
        self._abort = abort_signal
        name = fl_ctx.get_identity_name()
        try:
            hospital = self._open(fl_ctx)
            return self._answer(hospital, task_name, shareable)
        except Aborted:
            return make_reply(ReturnCode.TASK_ABORTED)
        except Exception as error:  # every error is answered, so that no round waits for this site
            failure = failure_of(error, name)
            self._log.error("error %s: see the hospital's own %s", failure.code, ERRORS)
            self._note(error, fl_ctx)
            return failure_to_shareable(failure)

    def _answer(self, hospital: Hospital, task_name: str, shareable: Shareable) -> Shareable:
        model, meta = model_from_shareable(shareable)
        if task_name == TRAIN:
            return update_to_shareable(hospital.train(model, int(meta["round"])))
        if task_name == VALIDATE:
            return metrics_to_shareable(hospital.validate(model))
        if task_name == ALONE:
            return metrics_to_shareable(hospital.train_alone(model, int(meta["rounds"])))
        if task_name == LOCAL_MODEL:
            assert self._site is not None
            if not self._site.share_local_model:
                raise Refused(
                    "not-shared", "this hospital shows its model to nobody", task_name, "ask it"
                )
            return update_to_shareable(hospital.train(model, int(meta["round"]), keep=False))
        raise UsageError(
            "unknown-task", "no such task", task_name, "use the job's own configuration"
        )

    def _open(self, fl_ctx: FLContext) -> Hospital:
        if self._hospital is None:
            job = read_job(fl_ctx)
            self._site = find_site(job, fl_ctx)
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            self._hospital = Hospital(self._site, job.settings, device=device, report=self._report)
        return self._hospital

    def _note(self, error: Exception, fl_ctx: FLContext) -> None:
        """Tells the people at the hospital what went wrong, in full."""
        # Whatever fails here must not reach FLARE, which would log it with the error's own text.
        with contextlib.suppress(Exception):
            if self._site is not None:
                folder = self._site.state
            else:
                workspace = fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT)
                folder = Path(workspace.get_root_dir()) / "consortium"
            told = str(error)
            if not isinstance(error, ConsortiumError):
                told = "".join(traceback.format_exception(error)).rstrip()
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / ERRORS).open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{datetime.now().isoformat(timespec='seconds')} {told}\n")

    def _report(self, progress: Progress) -> None:
        if self._abort is not None and self._abort.triggered:
            raise Aborted
        now = time.monotonic()
        if now - self._written < _PROGRESS_INTERVAL and progress.step < progress.steps:
            return
        self._written = now
        assert self._site is not None
        write_progress(self._site.state / "progress.json", progress)


def write_progress(path: Path, progress: Progress) -> None:
    """Writes how far a hospital is, for the people at the hospital."""
    write_text(
        path,
        json.dumps(
            {
                "stage": progress.stage,
                "round": progress.round,
                "rounds": progress.rounds,
                "step": progress.step,
                "steps": progress.steps,
                "process": os.getpid(),
            }
        ),
    )
