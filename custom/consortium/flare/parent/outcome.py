"""Passes a run's outcome from the job's process to FLARE's record of the job.

FLARE reports only `FINISHED:EXECUTION_EXCEPTION` to a submitter. The orchestrator's job process
writes a file into the workspace; its parent process moves the content into the record, where every
admin's `get_job_meta` shows it.
"""

import contextlib
from pathlib import Path

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey, SystemComponents
from nvflare.apis.fl_context import FLContext
from nvflare.apis.utils.job_utils import get_event_job_id

from consortium.core.errors import ConsortiumError
from consortium.core.files import write_json
from consortium.core.json_files import read_json_object
from consortium.orchestration.recovery import OUTCOME

OUTCOMES = ".outcomes"
"""Folder of the files in the orchestrator's workspace; no run id begins with a dot."""


def note_outcome(fl_ctx: FLContext, *, complete: bool, reason: str, stopped: bool) -> None:
    """Writes how this job's run ended; an error here must not change the outcome.

    Args:
        fl_ctx: FLARE's.
        complete: whether the run is complete.
        reason: why it is not.
        stopped: whether it ended for a reason that another job would meet again.
    """
    with contextlib.suppress(ConsortiumError):
        path = _path(fl_ctx, fl_ctx.get_job_id())
        write_json(path, {"complete": complete, "reason": reason, "stopped": stopped})


class OutcomeKeeper(FLComponent):
    """Moves a run's outcome into the job's record, in the orchestrator's parent process."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Moves the outcome when a job has ended."""
        if event_type != EventType.JOB_COMPLETED:
            return
        job_id = get_event_job_id(fl_ctx)
        path = _path(fl_ctx, str(job_id))
        if path.is_file():
            manager = fl_ctx.get_engine().get_component(SystemComponents.JOB_MANAGER)
            manager.update_meta(job_id, {OUTCOME: read_json_object(path)}, fl_ctx)
            path.unlink()


def _path(fl_ctx: FLContext, job_id: str) -> Path:
    workspace = fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT)
    return Path(workspace.get_root_dir()) / "consortium" / OUTCOMES / f"{job_id}.json"
