"""Continues runs whose FLARE job was interrupted, in the orchestrator's parent process.

`consortium.orchestration.recovery` decides; this module acts through FLARE. Its code shows: the
jobs of a server that died read RUNNING for ever; a restarted site has another token than its job
knows, and that job waits for it for ever.
"""

import logging
import shutil
import threading
import time
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey, RunProcessKey, SystemComponents
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import JobMetaKey, RunStatus
from nvflare.apis.utils.job_utils import get_event_job_id
from nvflare.fuel.common.exit_codes import ProcessExitCode
from nvflare.fuel.f3.message import Message
from nvflare.private.defs import (
    CellChannel,
    CellChannelTopic,
    CellMessageHeaderKeys,
    JobFailureMsgKey,
)

from consortium.core.errors import ConsortiumError, EnvironmentProblem, Refused
from consortium.core.files import require_room
from consortium.flare.job import checkpoint_folder, has_opened, run_folder
from consortium.orchestration.checkpoints import count_rounds
from consortium.orchestration.owners import is_owner, submitter_of
from consortium.orchestration.recovery import (
    FAILED_SITE,
    NEXT,
    OUTCOME,
    attempt_of,
    follow,
    is_broken,
    is_to_blame,
    why_given_up,
)
from consortium.orchestration.suspects import find_suspect

_INTERVAL = 1.0  # seconds between two checks
_ALIVE = 15.0  # seconds after a site's last heartbeat; it sends one every ten
_BREAKS = (
    ProcessExitCode.CONFIG_ERROR,
    ProcessExitCode.EXCEPTION,
    ProcessExitCode.INFRASTRUCTURE_ERROR,
)
"""Exit codes of a site's job process for which FLARE ends the job."""
_GATHER = 60.0  # seconds to wait for the job's sites before leaving that to FLARE's scheduler


class RunKeeper(FLComponent):
    """Marks interrupted jobs as such, and submits the next attempt of their run.

    Args:
        keep_runs: number of runs whose checkpoints are kept, the newest.
    """

    def __init__(self, keep_runs: int = 50):
        super().__init__()
        self._keep = keep_runs
        self._broken: dict[str, float] = {}  # job: since when it waits for its sites
        self._failed: set[str] = set()
        self._running: dict[str, float] = {}  # job: since when
        self._failed_site: dict[str, str] = {}  # job: the hospital that ended it
        self._ended = threading.Event()
        self._log = logging.getLogger(__name__)

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Marks interrupted jobs at the start, and notes every job that ends."""
        if event_type == EventType.SYSTEM_BOOTSTRAP:
            self._mark_interrupted(fl_ctx)
        elif event_type == EventType.SYSTEM_START:
            engine = fl_ctx.get_engine()
            engine.server.cell.core_cell.add_incoming_request_filter(
                CellChannel.SERVER_MAIN,
                CellChannelTopic.REPORT_JOB_FAILURE,
                self._note_failed_site,
                engine=engine,
            )
            threading.Thread(target=self._watch, args=(engine,), daemon=True).start()
        elif event_type in (EventType.JOB_COMPLETED, EventType.JOB_ABORTED):
            self._broken[str(get_event_job_id(fl_ctx))] = time.monotonic()
        elif event_type == EventType.SYSTEM_END:
            self._ended.set()

    def _mark_interrupted(self, fl_ctx: FLContext) -> None:
        """Marks the jobs of an earlier process as ended, before FLARE reads its jobs."""
        manager = fl_ctx.get_engine().get_component(SystemComponents.JOB_MANAGER)
        for job in manager.get_all_jobs(fl_ctx):
            self._broken[job.job_id] = time.monotonic()
            if job.meta.get(JobMetaKey.STATUS.value) in (RunStatus.RUNNING, RunStatus.DISPATCHED):
                self._log.warning("job %s ended with the orchestrator", job.job_id)
                try:
                    manager.set_status(job.job_id, RunStatus.FINISHED_ABNORMAL, fl_ctx)
                except Exception:  # one bad record stops no other run
                    self._log.exception("job %s could not be marked", job.job_id)
        self._prune(Path(fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT).get_root_dir()))

    def _prune(self, root: Path) -> None:
        checkpoints = [path.parent for path in (root / "consortium").glob("*/checkpoints")]
        for old in sorted(checkpoints, key=lambda path: path.stat().st_mtime)[: -self._keep]:
            shutil.rmtree(old, ignore_errors=True)

    def _watch(self, engine: Any) -> None:
        while not self._ended.wait(_INTERVAL):
            try:
                with engine.new_context() as fl_ctx:
                    self._fail_stale_jobs(engine, fl_ctx)
            except Exception:  # whatever FLARE raises now, the next check may succeed
                self._log.exception("checking the runs failed")
            for job_id in list(self._broken):
                self._check_job(engine, job_id)

    def _check_job(self, engine: Any, job_id: str) -> None:
        """Follows up one job; whatever is wrong with it stops no other run."""
        try:
            with engine.new_context() as fl_ctx:
                try:
                    self._follow_up(engine, job_id, fl_ctx)
                except ConsortiumError as error:
                    self._give_up(engine, job_id, str(error).removeprefix("error "), fl_ctx)
                    del self._broken[job_id]
        except Exception:
            self._log.exception("checking job %s failed", job_id)
            if time.monotonic() > self._broken[job_id] + _GATHER:
                del self._broken[job_id]

    def _note_failed_site(self, report: Message, engine: Any) -> None:
        """Notes the site that reports a failed job process, before FLARE ends the job for it."""
        token = report.get_header(CellMessageHeaderKeys.TOKEN)
        client = engine.client_manager.clients.get(token)
        payload = report.payload if isinstance(report.payload, dict) else {}
        job_id = str(payload.get(JobFailureMsgKey.JOB_ID))
        running = job_id in engine.run_processes and job_id not in engine.exception_run_processes
        if running and client is not None and payload.get(JobFailureMsgKey.CODE) in _BREAKS:
            root = Path(engine.get_workspace().get_root_dir())
            seconds = time.monotonic() - self._running.get(job_id, time.monotonic())
            if is_to_blame(opened=has_opened(root, job_id), seconds=seconds):
                self._failed_site.setdefault(job_id, client.name)
            else:
                self._log.warning("job %s is slow to start; %s gave it up", job_id, client.name)

    def _fail_stale_jobs(self, engine: Any, fl_ctx: FLContext) -> None:
        """Ends jobs that wait for a site that was restarted since."""
        processes = list(engine.run_processes.items())
        now = time.monotonic()
        self._running = {job_id: self._running.get(job_id, now) for job_id, _ in processes}
        for job_id, process in processes:
            if job_id in self._failed:
                continue
            for token, client in process[RunProcessKey.PARTICIPANTS].items():
                known = engine.get_client_from_name(client.name)
                if known is not None and known.token != token:
                    self._log.warning("%s was restarted; job %s is ended", client.name, job_id)
                    self._failed.add(job_id)
                    self._failed_site.setdefault(job_id, client.name)
                    code = ProcessExitCode.INFRASTRUCTURE_ERROR
                    engine.job_runner.fail_run(job_id, code, fl_ctx)
                    break

    def _follow_up(self, engine: Any, job_id: str, fl_ctx: FLContext) -> None:
        manager = engine.get_component(SystemComponents.JOB_MANAGER)
        job = manager.get_job(job_id, fl_ctx)
        if job is None or not is_broken(job.meta):
            del self._broken[job_id]
            return
        attempt = attempt_of(job.meta)
        assert attempt is not None
        root = Path(engine.get_workspace().get_root_dir())
        checkpoints = checkpoint_folder(root, attempt.run)
        # No site reports it when an answer ends the orchestrator's own process.
        failed_site = self._failed_site.pop(job_id, None) or find_suspect(checkpoints)
        if failed_site:
            job.meta[FAILED_SITE] = failed_site
            manager.update_meta(job_id, {FAILED_SITE: failed_site}, fl_ctx)
        if not is_owner(run_folder(root, attempt.run), submitter_of(job.meta)):
            raise Refused("other-submitter", "the run belongs to somebody else", attempt.run)
        rounds = count_rounds(checkpoints)
        following, reason = follow(job.meta, rounds), why_given_up(job.meta)
        try:
            # Its job may have been unable to write even that it could not.
            require_room(checkpoints)
        except EnvironmentProblem as problem:
            following, reason = None, str(problem).removeprefix("error ")
        if following is None:
            self._give_up(engine, job_id, reason, fl_ctx)
        elif self._gathered(engine, job.meta) or time.monotonic() > self._broken[job_id] + _GATHER:
            created = manager.clone(job_id, following, fl_ctx)
            next_id = created[JobMetaKey.JOB_ID.value]
            manager.update_meta(job_id, {NEXT: next_id}, fl_ctx)
            self._log.warning(
                "run %s: job %s continues after %d rounds as %s",
                attempt.run,
                job_id,
                rounds,
                next_id,
            )
        else:
            return
        del self._broken[job_id]

    def _give_up(self, engine: Any, job_id: str, reason: str, fl_ctx: FLContext) -> None:
        """Notes in a job's record why its run is not continued."""
        manager = engine.get_component(SystemComponents.JOB_MANAGER)
        stopped = {"complete": False, "reason": reason, "stopped": True}
        manager.update_meta(job_id, {OUTCOME: stopped}, fl_ctx)
        self._log.error("job %s is not continued: %s", job_id, reason)

    def _gathered(self, engine: Any, meta: dict[str, Any]) -> bool:
        """Returns whether the sites that a job needs are connected."""
        since = time.time() - _ALIVE
        alive = {site.name for site in engine.get_clients() if site.last_connect_time > since}
        needed = set(meta.get("mandatory_clients") or ())
        return needed <= alive and len(alive) >= int(meta.get("min_clients") or 1)
