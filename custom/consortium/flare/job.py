"""What a process of FLARE knows of its job: `meta.json`, `settings.json`, and its own folders."""

import os
from dataclasses import dataclass
from pathlib import Path

from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.workspace import Workspace
from nvflare.app_opt.pt.decomposers import TensorDecomposer
from nvflare.fuel.utils import fobs

from consortium import __version__
from consortium.errors import Refused
from consortium.settings import Settings, load_settings, read_json_object

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
        settings: the job's.
        root: the workspace of this server or site.
        folder: this job's folder in it.
    """

    run: str
    name: str
    hospitals: tuple[str, ...]
    settings: Settings
    root: Path
    folder: Path


def read_job(fl_ctx: FLContext) -> Job:
    """Reads the job that this process was started for.

    Raises:
        UsageError: a setting is refused.
        Refused: `other-version`, where the job was made with another version of this package.
    """
    workspace: Workspace = fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT)
    job_id: str = fl_ctx.get_job_id()
    meta = read_json_object(Path(workspace.get_job_meta_path(job_id)))
    ours = meta.get("consortium", {})
    made_with = ours.get("version", __version__)
    if made_with != __version__:
        raise Refused(
            "other-version",
            f"the job was made with version {made_with} and {__version__} is installed",
            "consortium",
            "install the version that the consortium agreed on",
        )
    return Job(
        run=ours.get("run") or job_id,
        name=str(meta.get("name", "job")),
        hospitals=tuple(sorted(ours.get("hospitals", []))),
        settings=load_settings(Path(workspace.get_app_config_dir(job_id)) / "settings.json"),
        root=Path(workspace.get_root_dir()),
        folder=Path(workspace.get_run_dir(job_id)),
    )


def result_folders(job: Job) -> tuple[Path, Path]:
    """Where the orchestrator puts what a run leaves, and its journal.

    By default the results lie in the job's own folder, which FLARE's download brings, and the
    journal outside of it, so that the next job of the same run finds it.
    """
    override = os.environ.get(RUN_FOLDER)
    if override:
        return Path(override), Path(override) / "journal"
    return job.folder / "consortium", job.root / "consortium" / job.run / "journal"


def register_tensors() -> None:
    """Lets FLARE carry torch tensors as they are."""
    fobs.register(TensorDecomposer)
