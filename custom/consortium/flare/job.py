"""Reads a FLARE process's job: `meta.json`, `settings.json`, and its own folders."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.workspace import Workspace

from consortium.core.json_files import read_json_object
from consortium.orchestration.owners import Owner, submitter_of
from consortium.orchestration.records import ROUNDS
from consortium.orchestration.recovery import attempt_of
from consortium.settings.base import Settings
from consortium.study import job_content
from consortium.study.job_content import check_meta, read_study
from consortium.study.job_folder import SETTINGS, STUDY
from consortium.tasks.registry import load_settings

RUN_FOLDER = "CONSORTIUM_RUN"
"""Environment variable of a simulation's orchestrator: the folder for the run's results."""


TROUBLE = "trouble.txt"
"""File next to a run's results with the reason why there are none."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job as deployed to this process.

    Attributes:
        run: id of the run; the same for all jobs that continue it.
        name: of the job.
        hospitals: that the study declares, sorted; empty if `meta.json` names none.
        quorum: the study's declaration; see `consortium.orchestration.quorum`.
        left_out: hospitals that it excludes, because they broke the jobs before it.
        settings: the job's.
        root: the workspace of this server or site.
        folder: this job's folder in it.
        submitter: the admin who submitted it; empty in a simulation.
    """

    run: str
    name: str
    hospitals: tuple[str, ...]
    quorum: Mapping[str, Any]
    left_out: tuple[str, ...]
    settings: Settings
    root: Path
    folder: Path
    submitter: Owner = field(default_factory=Owner)


def read_job(fl_ctx: FLContext) -> Job:
    """Reads the job that this process was started for.

    Raises:
        UsageError: a setting is refused.
        Refused: see `check_as_submitted`; `bad-record`, if the id of the run or the name of a
            hospital is none.
    """
    workspace: Workspace = fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT)
    job_id: str = fl_ctx.get_job_id()
    meta = {**read_json_object(Path(workspace.get_job_meta_path(job_id))), "job_id": job_id}
    config = Path(workspace.get_app_config_dir(job_id))
    check_as_submitted(meta, config)
    declared = meta.get("consortium", {})
    attempt = attempt_of({**meta, "job_id": job_id})
    return Job(
        run=attempt.run if attempt is not None else job_id,
        name=str(meta.get("name", "job")),
        hospitals=tuple(sorted(declared.get("hospitals", []))),
        quorum=declared.get("quorum", {}),
        left_out=attempt.left_out if attempt is not None else (),
        settings=load_settings(config / SETTINGS.name),
        root=Path(workspace.get_root_dir()),
        folder=Path(workspace.get_run_dir(job_id)),
        submitter=submitter_of(meta),
    )


def check_as_submitted(meta: Mapping[str, Any], config: Path) -> None:
    """Compares a job's `meta.json` with the study that the submitter signed.

    The files and the signature are checked before a process is started for the job: by the
    orchestrator when it is submitted, by a hospital's parent process when it arrives.

    Args:
        meta: as this process received it, with the job's id.
        config: the deployed configuration folder.

    Raises:
        Refused: `altered-job`, `unknown-key`, `not-exported`, `bad-study` or `other-version`.
    """
    path = config / STUDY.name
    files = {job_content.STUDY: path.read_bytes()} if path.is_file() else {}
    check_meta(read_study(files), meta, None)


def result_folders(job: Job) -> tuple[Path, Path]:
    """Returns the orchestrator's folders for a run's results and for its checkpoints.

    By default the results are in the job's own folder, which FLARE's download fetches. The
    checkpoints are outside of it, so that the next job of the same run finds them.
    """
    override = os.environ.get(RUN_FOLDER)
    if override:
        return Path(override), Path(override) / "checkpoints"
    return job.folder / "consortium", checkpoint_folder(job.root, job.run)


def is_simulation() -> bool:
    """Whether the submitter is the person at this machine, who names the folder of the results."""
    return bool(os.environ.get(RUN_FOLDER))


def run_folder(root: Path, run: str) -> Path:
    """Returns the folder of a run in the orchestrator's workspace."""
    return root / "consortium" / run


def checkpoint_folder(root: Path, run: str) -> Path:
    """Returns the folder of a run's checkpoints in the orchestrator's workspace."""
    return run_folder(root, run) / "checkpoints"


def has_opened(root: Path, job_id: str) -> bool:
    """Whether the orchestrator's process of a job has opened the run.

    Args:
        root: the orchestrator's workspace.
        job_id: of the job.
    """
    return (root / job_id / "consortium" / ROUNDS).exists()
