"""What a process of FLARE knows of its job: `meta.json`, `settings.json`, and its own folders."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.workspace import Workspace
from nvflare.lighter.tool_consts import NVFLARE_SIG_FILE

from consortium import __version__
from consortium.core.errors import Refused
from consortium.core.json_files import read_json_object
from consortium.orchestration.recovery import attempt_of, exclude_sites
from consortium.settings.base import Settings
from consortium.study.job_folder import BOUND, SETTINGS, STUDY
from consortium.tasks.registry import load_settings

RUN_FOLDER = "CONSORTIUM_RUN"
"""Environment variable of the orchestrator: the folder that a run's results go to."""


TROUBLE = "trouble.txt"
"""File beside a run's results that says why there are none."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job as deployed to this process.

    Attributes:
        run: id of the run; the same for all jobs that continue it.
        name: of the job.
        hospitals: that the study declares, sorted; empty where `meta.json` names none.
        quorum: what the study declares of its rounds; see `consortium.orchestration.quorum`.
        left_out: hospitals that broke the jobs before it, which it does without.
        settings: the job's.
        root: the workspace of this server or site.
        folder: this job's folder in it.
    """

    run: str
    name: str
    hospitals: tuple[str, ...]
    quorum: Mapping[str, Any]
    left_out: tuple[str, ...]
    settings: Settings
    root: Path
    folder: Path


def read_job(fl_ctx: FLContext) -> Job:
    """Reads the job that this process was started for.

    Raises:
        UsageError: a setting is refused.
        Refused: `other-version`, where the job was made with another version of this package;
            `altered-job`, where it is not as it was submitted.
    """
    workspace: Workspace = fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT)
    job_id: str = fl_ctx.get_job_id()
    meta = read_json_object(Path(workspace.get_job_meta_path(job_id)))
    config = Path(workspace.get_app_config_dir(job_id))
    check_as_submitted(meta, config)
    ours = meta.get("consortium", {})
    attempt = attempt_of({**meta, "job_id": job_id})
    made_with = ours.get("version", __version__)
    if made_with != __version__:
        raise Refused(
            "other-version",
            f"the job was made with version {made_with} and {__version__} is installed",
            "consortium",
            "install the version that the consortium agreed on",
        )
    return Job(
        run=attempt.run if attempt is not None else job_id,
        name=str(meta.get("name", "job")),
        hospitals=tuple(sorted(ours.get("hospitals", []))),
        quorum=ours.get("quorum", {}),
        left_out=attempt.left_out if attempt is not None else (),
        settings=load_settings(config / SETTINGS.name),
        root=Path(workspace.get_root_dir()),
        folder=Path(workspace.get_run_dir(job_id)),
    )


def check_as_submitted(meta: Mapping[str, Any], config: Path) -> None:
    """Compares a job's `meta.json` with the copy of it that the submitter's signature covers.

    FLARE verifies every file that is there against that signature; it misses one that was removed.

    Args:
        meta: as this process was given it.
        config: the deployed folder of configuration.

    Raises:
        Refused: `altered-job`.
    """
    signatures = config / NVFLARE_SIG_FILE
    signed = read_json_object(signatures) if signatures.is_file() else {}
    altered = [name for name in sorted(signed) if not (config / name).exists()]
    if (config / STUDY.name).is_file():
        study = read_json_object(config / STUDY.name)
        attempt = attempt_of({"job_id": "", **meta})
        if attempt is not None and attempt.left_out:
            # The orchestrator may do without a hospital; what it may not is ask another one.
            hospitals = study["consortium"]["hospitals"]
            study["deploy_map"] = exclude_sites(study["deploy_map"], hospitals, attempt.left_out)
        altered += [f"{key} in meta.json" for key in BOUND if meta.get(key) != study.get(key)]
    if altered:
        raise Refused(
            "altered-job",
            f"{altered[0]} is not as it was submitted",
            "the job",
            "tell the submitter; somebody changed it on its way",
        )


def result_folders(job: Job) -> tuple[Path, Path]:
    """Where the orchestrator puts what a run leaves, and its checkpoints.

    By default the results lie in the job's own folder, which FLARE's download brings, and the
    checkpoints outside of it, so that the next job of the same run finds it.
    """
    override = os.environ.get(RUN_FOLDER)
    if override:
        return Path(override), Path(override) / "checkpoints"
    return job.folder / "consortium", checkpoint_folder(job.root, job.run)


def checkpoint_folder(root: Path, run: str) -> Path:
    """Where the orchestrator with this workspace keeps the checkpoints of a run."""
    return root / "consortium" / run / "checkpoints"
