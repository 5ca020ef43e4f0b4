"""A run of a job over a folder of hospitals on one machine, and its progress.

There are three engines with one interface and the same bytes as results: `in_process` (the same
numbers, in seconds), `simulator` (FLARE's own processes, codecs and configuration) and
`local_federation` (signed kits in addition). Invariants: inputs that do not match are reported
before anything is started, and a workspace belongs to one run.
"""

import contextlib
import fcntl
import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from consortium.core.errors import Refused, UsageError
from consortium.core.files import lock_file, write_json
from consortium.core.json_files import read_json_object
from consortium.core.plurals import plural
from consortium.core.site_policy import Privacy, simulated_privacy
from consortium.models.bundle import load_start
from consortium.models.networks import network_config
from consortium.settings.base import Settings, override
from consortium.study.job_folder import SETTINGS, prepare_job, seal_job
from consortium.tasks.folders import hospital_folders
from consortium.tasks.registry import load_settings, parse_settings, task_of

POLL = 0.3
"""Seconds between two reads of the progress."""


@dataclass(frozen=True, slots=True)
class View:
    """The progress of a running job.

    Attributes:
        settings: of the job.
        records: lines of `rounds.jsonl` so far.
        hospitals: content of each hospital's progress file, once it has one.
    """

    settings: Settings
    records: list[dict[str, Any]]
    hospitals: dict[str, dict[str, Any]]


Watch = Callable[[View], None]
"""Receives the progress of a run from time to time."""


def read_view(settings: Settings, rounds: Path, states: Mapping[str, Path]) -> View:
    """Reads the progress of a running job.

    Args:
        settings: of the job.
        rounds: its `rounds.jsonl`.
        states: for each hospital, the folder that holds one folder per run.
    """
    records = []
    with contextlib.suppress(OSError, ValueError):
        lines = rounds.read_text(encoding="utf-8").splitlines(keepends=True)
        records = [json.loads(line) for line in lines if line.endswith("\n")]
    return View(settings, records, read_progress(states))


def read_progress(states: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Reads the hospitals' progress files; see `read_view`."""
    progress = {}
    for name, folder in states.items():
        for path in folder.glob("*/progress.json"):
            with contextlib.suppress(OSError, ValueError):
                progress[name] = json.loads(path.read_text(encoding="utf-8"))
    return progress


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRun(ABC):
    """A run of a job on one machine.

    Attributes:
        job: the job's folder.
        data: holds one folder per hospital.
        workspace: of the run.
        settings: a file that replaces the job's `settings.json`, or None.
        assignments: `KEY=VALUE` changes of the settings.
        quorum: `KEY=VALUE` changes of the quorum; see `consortium.orchestration.quorum`.
        smallest_group: a hospital sends no metric over fewer patients.
        smallest_training: a hospital takes no part with fewer training patients, and sends no
            update of fewer.
    """

    job: Path
    data: Path
    workspace: Path
    settings: Path | None = None
    assignments: Sequence[str] = ()
    quorum: Sequence[str] = ()
    smallest_group: int = 5
    smallest_training: int = 5

    @property
    def privacy(self) -> Privacy:
        """What every hospital of the run protects."""
        return simulated_privacy(self.smallest_training)

    @abstractmethod
    def run(self, watch: Watch = lambda view: None) -> dict[str, Any]:
        """Runs the job to its end.

        Args:
            watch: receives the progress from time to time.

        Returns:
            The content of `result.json`.

        Raises:
            UsageError: a folder, a hospital or a setting is wrong; nothing was started.
            Refused: the workspace is in use.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumableRun(LocalRun):
    """A run that can be resumed in its workspace after a kill.

    Attributes:
        resume: whether to resume the run in the workspace; `assignments` may give it more rounds.
    """

    resume: bool = False

    def prepare(self) -> Settings:
        """Prepares the job in the workspace, or finds it there to resume.

        Raises:
            UsageError: see `prepare_run`; `settings-on-resume`; `fewer-rounds`.
            Refused: see `prepare_run`; `nothing-to-resume`; `other-hospitals`.
        """
        return resume_run(self) if self.resume else prepare_run(self)


def prepare_run(wanted: LocalRun) -> Settings:
    """Prepares the job to submit in a new workspace, at `job/NAME`.

    Raises:
        UsageError: a folder, a hospital or a setting is wrong; nothing was written.
        Refused: `workspace-in-use`, or a hospital's folder belongs to another job.
    """
    job, workspace = wanted.job, wanted.workspace.resolve()
    if workspace.exists() and any(workspace.iterdir()):
        raise Refused(
            "workspace-in-use",
            "the workspace is not empty",
            str(workspace),
            "choose another one, or continue with --resume",
        )
    folders = hospital_folders(wanted.data)
    file = wanted.settings or job / SETTINGS
    raw = read_json_object(file)
    settings = parse_settings(raw, str(file))
    if wanted.assignments:
        raw = override(raw, list(wanted.assignments))
        settings = parse_settings(raw, "--set")
    start = settings.model.from_
    if start is not None:
        raw["model"]["from"] = str(Path(start).resolve())
        settings = parse_settings(raw)
    network_config(settings)
    if start is not None:
        load_start(Path(start), settings)
    for name, folder in folders.items():
        task_of(settings).require_folder(name, folder, settings)
    run = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    workspace.mkdir(parents=True, exist_ok=True)
    prepare_job(
        job,
        workspace / "job" / job.name,
        run=run,
        hospitals=list(folders),
        settings=raw,
        quorum=wanted.quorum,
    )
    return settings


def resume_run(wanted: LocalRun) -> Settings:
    """Finds the job of the run in the workspace, and changes its number of rounds if asked to.

    Raises:
        UsageError: `settings-on-resume`, if more than the rounds would change; `fewer-rounds`.
        Refused: `nothing-to-resume`; `other-hospitals`.
    """
    workspace = wanted.workspace.resolve()
    prepared = workspace / "job" / wanted.job.name
    others = [item for item in wanted.assignments if not item.startswith("rounds=")]
    if others or wanted.settings or wanted.quorum:
        raise UsageError(
            "settings-on-resume",
            "only the number of rounds of a run can change",
            "--resume",
            "leave out --settings, --set, --quorum and --seed",
        )
    if not prepared.is_dir():
        raise Refused(
            "nothing-to-resume",
            "the workspace has no run of this job",
            str(workspace),
            "start one without --resume",
        )
    declared = read_json_object(prepared / "meta.json")["consortium"]["hospitals"]
    if declared != sorted(hospital_folders(wanted.data.resolve())):
        raise Refused(
            "other-hospitals",
            f"the run has the hospitals {', '.join(declared)}",
            str(wanted.data),
            "resume with the same folders",
        )
    if wanted.assignments:
        raw = override(read_json_object(prepared / SETTINGS), list(wanted.assignments))
        extended = parse_settings(raw, "--rounds")
        done = len(read_view(extended, workspace / "rounds.jsonl", {}).records)
        if extended.rounds < done:
            raise UsageError(
                "fewer-rounds",
                f"{plural(done, 'round is', 'rounds are')} closed already,"
                f" more than {extended.rounds}",
                "--rounds",
                f"give {done} or more",
            )
        write_json(prepared / SETTINGS, raw)
        seal_job(prepared)
    return load_settings(prepared / SETTINGS)


@contextlib.contextmanager
def hold_workspace(workspace: Path, timeout: float = 0.0) -> Iterator[int]:
    """Locks the workspace for this process and those that it starts, until the last one ends.

    Args:
        workspace: of the run.
        timeout: seconds to wait for the processes of a run that was killed.

    Yields:
        The file descriptor of the lock.

    Raises:
        Refused: `workspace-busy`.
    """
    deadline = time.monotonic() + timeout
    while (lock := lock_file(workspace / ".lock")) is None:
        if time.monotonic() >= deadline:
            raise Refused(
                "workspace-busy",
                "another run is using the workspace",
                str(workspace),
                "wait for its end, or end it",
            )
        time.sleep(0.05)
    with lock as file:
        try:
            yield file.fileno()
        finally:
            # Processes that were started share the lock, and some take a moment to end.
            fcntl.flock(file, fcntl.LOCK_UN)
