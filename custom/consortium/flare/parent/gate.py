"""The gate in a hospital's parent process: what the orchestrator may ask of it, and which jobs run.

FLARE's client asks the hospital's own policy only if the orchestrator's message says so, and runs
whatever it is sent. This component replaces FLARE's request processors before the site registers.
Invariants:

* Only the commands of `_COMMANDS` are carried out, whatever the headers of the message.
* A job is judged by the bytes that arrive, before they are unpacked, and again when it is started,
  by the files on the disk and the `meta.json` that came with the command.
* Whatever goes wrong here refuses the command. The orchestrator learns a code and nothing else.
"""

import json
import logging
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import EventScope, FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.fl_exception import UnsafeComponentError
from nvflare.apis.utils.job_utils import get_event_job_id
from nvflare.apis.workspace import Workspace
from nvflare.fuel.f3.message import Message as CellMessage
from nvflare.private.admin_defs import Message, MsgHeader, ReturnCode, error_reply
from nvflare.private.defs import ERROR_MSG_PREFIX, RequestHeader, SysCommandTopic, TrainingTopic
from nvflare.private.fed.client.admin import RequestProcessor
from nvflare.private.fed.client.client_req_processors import ClientRequestProcessors

from consortium.core.errors import ConsortiumError, Refused, failure_of
from consortium.core.site_policy import HOME, note_error
from consortium.flare.parent.submitted import judge_job
from consortium.kits.hospital import read_hospital
from consortium.study.job_content import check_job_id
from consortium.study.job_files import Files, read_archive, read_folder
from consortium.study.job_ledger import JobLedger

_OF_A_JOB = {
    TrainingTopic.ABORT,
    TrainingTopic.ABORT_TASK,
    TrainingTopic.CHECK_RESOURCE,
    TrainingTopic.DELETE_RUN,
    TrainingTopic.DEPLOY,
    TrainingTopic.NOTIFY_JOB_STATUS,
    TrainingTopic.START_JOB,
}
"""Commands that name a job."""
_COMMANDS = {
    *_OF_A_JOB,
    SysCommandTopic.REPORT_RESOURCES,
    SysCommandTopic.REPORT_VERSION,
    TrainingTopic.CANCEL_RESOURCE,
    TrainingTopic.CHECK_STATUS,
    TrainingTopic.GET_SCOPES,
    TrainingTopic.RESTART,
    TrainingTopic.SHUTDOWN,
}
"""All commands that the orchestrator may give."""
_CHANGES = {TrainingTopic.DELETE_RUN, TrainingTopic.DEPLOY, TrainingTopic.START_JOB}
"""Commands that change a job's files or read them; one at a time."""
_FAILURES = {TrainingTopic.DEPLOY: "deploy-failed", TrainingTopic.START_JOB: "start-failed"}
"""Codes for what FLARE itself refuses of a job; its reasons hold paths."""
_NET_MANAGER = "_net_manager"  # FLARE's channel for looks into a process, and for stopping it
_GPU = {"gpu_id", "memory"}


class HospitalGate(FLComponent):
    """Replaces FLARE's request processors by judged ones, at the start of the hospital's process.

    If that fails, the process ends before the site registers.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ledger: JobLedger | None = None

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Closes the gate before the site registers, and notes the jobs that end."""
        if fl_ctx.get_prop(FLContextKey.EVENT_SCOPE) == EventScope.FEDERATION:
            return  # the orchestrator can fire every event here
        if event_type == EventType.SYSTEM_BOOTSTRAP:
            try:
                self._close(fl_ctx)
            except Exception as error:  # without the gate there must be no hospital
                raise UnsafeComponentError(f"gate-failed: {error}") from None
        elif event_type == EventType.JOB_COMPLETED and self._ledger is not None:
            self._ledger.note_end(str(get_event_job_id(fl_ctx)), datetime.now(UTC))

    def _close(self, fl_ctx: FLContext) -> None:
        name = fl_ctx.get_identity_name()
        workspace: Workspace = fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT)
        judge = _Judge(workspace, home_of(Path(workspace.get_root_dir()), name))
        self._ledger = judge.ledger
        processors = ClientRequestProcessors.request_processors
        # In place: FLARE holds the list already.
        processors[:] = [_JudgedProcessor(processor, judge) for processor in processors]
        cell = fl_ctx.get_engine().get_cell().core_cell
        cell.add_incoming_request_filter(_NET_MANAGER, "*", _refuse_look)


def home_of(kit: Path, name: str) -> Path:
    """Returns the folder for what a hospital keeps over all runs.

    Args:
        kit: folder of its kit.
        name: of the hospital.
    """
    state = (read_hospital(kit).state or "").replace("{site}", name)
    return (Path(state) if state else kit / "consortium") / HOME / name


def _refuse_look(request: CellMessage) -> CellMessage:
    """Answers a request of FLARE's network tools with nothing."""
    return CellMessage(payload=None)


class _Judge:
    """Decides on each command.

    Attributes:
        ledger: the jobs that were admitted.
        lock: held while a job is judged and unpacked or started, so that the files that are judged
            are the files that run.
    """

    def __init__(self, workspace: Workspace, home: Path):
        self.ledger = JobLedger(home / "admitted")
        self.lock = threading.Lock()
        self._workspace, self._home = workspace, home
        self._log = logging.getLogger(__name__)

    def check(self, request: Message) -> None:
        """Checks a command.

        Raises:
            ConsortiumError: it is refused.
        """
        if request.topic not in _COMMANDS:
            raise Refused("refused-command", "no such command", str(request.topic), "")
        job_id = request.get_header(RequestHeader.JOB_ID)
        if request.topic in _OF_A_JOB or job_id:
            check_job_id(job_id)
        if request.topic == TrainingTopic.DEPLOY:
            if not isinstance(request.body, bytes):
                raise Refused("unsafe-archive", "no archive came with the job", job_id)
            job = judge_job(self._kit, read_archive(request.body), _meta_of(request), job_id)
            self.ledger.admit(job.admission, datetime.now(UTC))
        elif request.topic == TrainingTopic.START_JOB:
            job = judge_job(self._kit, self._deployed(job_id), _meta_of(request), job_id)
            self.ledger.require(job.content.digest, run=job.run, job_id=job_id)

    def note(self, request: Message, error: Exception) -> None:
        """Writes why a command was refused into the hospital's own logs."""
        self._log.error("refused %s: %s", request.topic, failure_of(error, "").code)
        note_error(self._home, error)

    def _deployed(self, job_id: str) -> Files:
        return read_folder(Path(self._workspace.get_app_dir(job_id)))

    @property
    def _kit(self) -> Path:
        return Path(self._workspace.get_root_dir())


class _JudgedProcessor(RequestProcessor):
    """One of FLARE's processors, which answers only what the judge lets pass."""

    def __init__(self, inner: RequestProcessor, judge: _Judge):
        self._inner, self._judge = inner, judge

    def get_topics(self) -> list[str]:
        """Returns the topics of the processor, those that are refused too."""
        return list(self._inner.get_topics())

    def process(self, req: Message, app_ctx: Any) -> Message:
        """Judges a command and carries it out."""
        try:
            with self._judge.lock if req.topic in _CHANGES else nullcontext():
                self._judge.check(req)
                return _without_details(req, self._inner.process(req, app_ctx))
        except Exception as error:  # nothing passes that could not be judged
            self._judge.note(req, error)
            code = error.code if isinstance(error, ConsortiumError) else "gate-failed"
            # FLARE fails a job at its start only for a reply that begins like this.
            prefix = f"{ERROR_MSG_PREFIX}: " if req.topic == TrainingTopic.START_JOB else ""
            return error_reply(prefix + code)


def _without_details(request: Message, reply: Message) -> Message:
    """Removes what FLARE's own replies tell beyond what was asked: paths, texts of exceptions."""
    if request.topic == TrainingTopic.DELETE_RUN:
        reply.body = "OK"
    elif request.topic == SysCommandTopic.REPORT_RESOURCES:
        reply.body = json.dumps(_gpus_of(json.loads(reply.body)))
    elif request.topic in _FAILURES and _has_failed(reply):
        raise Refused(_FAILURES[request.topic], f"FLARE refused the job ({reply.body})")
    return reply


def _has_failed(reply: Message) -> bool:
    body = reply.body if isinstance(reply.body, str) else ""
    code = reply.get_header(MsgHeader.RETURN_CODE, ReturnCode.OK)
    return code != ReturnCode.OK or body.startswith(ERROR_MSG_PREFIX)


def _gpus_of(report: Any) -> dict[str, Any]:
    """Returns the GPUs in a report of FLARE's resource manager, and nothing else of it."""
    listed = report.get("resources") if isinstance(report, Mapping) else None
    gpus = [gpu for gpu in listed or [] if isinstance(gpu, Mapping) and gpu.keys() == _GPU]
    return {"resources": gpus}


def _meta_of(request: Message) -> Mapping[str, Any]:
    meta = request.get_header(RequestHeader.JOB_META)
    if not isinstance(meta, Mapping):
        raise Refused("altered-job", "no meta.json came with the job", "", "submit it again")
    return meta
