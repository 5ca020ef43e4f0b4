"""A job over a folder of hospitals on one machine: what is run, and how far it is.

There are three places to run it, with one interface and the same bytes out of all three:
`in_process` (the same numbers, in seconds), `simulator` (FLARE's own processes, codecs and
configuration) and `local_federation` (signed kits besides). What always holds: what does not go
together is said before anything is started, and a workspace belongs to one run.
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
from consortium.models.bundle import load_start
from consortium.models.networks import network_config
from consortium.settings.base import Settings, override
from consortium.study.job_folder import SETTINGS, prepare_job
from consortium.tasks.folders import hospital_folders
from consortium.tasks.registry import load_settings, parse_settings, task_of

POLL = 0.3
"""Seconds between two looks at the progress."""


@dataclass(frozen=True, slots=True)
class View:
    """What can be seen of a running job.

    Attributes:
        settings: of the job.
        records: lines of `rounds.jsonl` so far.
        hospitals: what each hospital's progress file says; empty before it starts.
    """

    settings: Settings
    records: list[dict[str, Any]]
    hospitals: dict[str, dict[str, Any]]


Watch = Callable[[View], None]
"""Is shown the state of a run from time to time."""


def look(settings: Settings, rounds: Path, states: Mapping[str, Path]) -> View:
    """Takes a look at a running job.

    Args:
        settings: of the job.
        rounds: its `rounds.jsonl`.
        states: of each hospital, the folder that holds a folder a run.
    """
    records = []
    with contextlib.suppress(OSError, ValueError):
        lines = rounds.read_text(encoding="utf-8").splitlines(keepends=True)
        records = [json.loads(line) for line in lines if line.endswith("\n")]
    return View(settings, records, read_progress(states))


def read_progress(states: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """What the progress files say, by hospital; see `look`."""
    progress = {}
    for name, folder in states.items():
        for path in folder.glob("*/progress.json"):
            with contextlib.suppress(OSError, ValueError):
                progress[name] = json.loads(path.read_text(encoding="utf-8"))
    return progress


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRun(ABC):
    """What to run.

    Attributes:
        job: the job's folder.
        data: holds one folder a hospital.
        workspace: of the run.
        settings: a file that takes the place of the job's `settings.json`, or None.
        assignments: `KEY=VALUE` changes of the settings.
        quorum: `KEY=VALUE` changes of the quorum; see `consortium.orchestration.quorum`.
        smallest_group: a metric over fewer patients is not sent by a hospital.
    """

    job: Path
    data: Path
    workspace: Path
    settings: Path | None = None
    assignments: Sequence[str] = ()
    quorum: Sequence[str] = ()
    smallest_group: int = 5

    @abstractmethod
    def run(self, watch: Watch = lambda view: None) -> dict[str, Any]:
        """Runs the job to its end.

        Args:
            watch: is shown the state from time to time.

        Returns:
            The content of `result.json`.

        Raises:
            UsageError: a folder, a hospital or a setting is wrong; nothing was started.
            Refused: the workspace is in use.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumableRun(LocalRun):
    """A run that goes on in its workspace after a kill.

    Attributes:
        resume: go on with the run in the workspace, where `assignments` say so to more rounds.
    """

    resume: bool = False

    def prepare(self) -> Settings:
        """Puts the job to be run into the workspace, or finds it there.

        Raises:
            UsageError: see `prepare_run`; `settings-on-resume`; `fewer-rounds`.
            Refused: see `prepare_run`; `nothing-to-resume`; `other-hospitals`.
        """
        return resume_run(self) if self.resume else prepare_run(self)


def prepare_run(wanted: LocalRun) -> Settings:
    """Puts the job to be submitted into a new workspace, at `job/NAME`.

    What does not go together is said before anything is started.

    Raises:
        UsageError: a folder, a hospital or a setting is wrong; nothing was written.
        Refused: `workspace-in-use`, or a hospital's folder is another job's.
    """
    job, workspace = wanted.job, wanted.workspace.resolve()
    if workspace.exists() and any(workspace.iterdir()):
        raise Refused(
            "workspace-in-use",
            "the workspace is not empty",
            str(workspace),
            "choose another one, or go on with --resume",
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
    """Finds the job of the run in the workspace, and extends it where more rounds are wanted.

    Raises:
        UsageError: `settings-on-resume`, where more than the rounds would change; `fewer-rounds`.
        Refused: `nothing-to-resume`; `other-hospitals`.
    """
    workspace = wanted.workspace.resolve()
    prepared = workspace / "job" / wanted.job.name
    more = [word for word in wanted.assignments if not word.startswith("rounds=")]
    if more or wanted.settings or wanted.quorum:
        raise UsageError(
            "settings-on-resume",
            "of the settings of a run only the rounds can change",
            "--resume",
            "leave out --settings, --set, --quorum and --seed",
        )
    if not prepared.is_dir():
        raise Refused(
            "nothing-to-resume", "no run of this job is here", str(workspace), "start one"
        )
    declared = read_json_object(prepared / "meta.json")["consortium"]["hospitals"]
    if declared != sorted(hospital_folders(wanted.data.resolve())):
        raise Refused(
            "other-hospitals",
            f"the run declares {', '.join(declared)}",
            str(wanted.data),
            "resume with the same folders",
        )
    if wanted.assignments:
        raw = override(read_json_object(prepared / SETTINGS), list(wanted.assignments))
        extended = parse_settings(raw, "--rounds")
        done = len(look(extended, workspace / "rounds.jsonl", {}).records)
        if extended.rounds < done:
            raise UsageError(
                "fewer-rounds",
                f"{done} rounds are done, and {extended.rounds} cannot be all",
                "--rounds",
                "name as many or more",
            )
        write_json(prepared / SETTINGS, raw)
    return load_settings(prepared / SETTINGS)


@contextlib.contextmanager
def hold_workspace(workspace: Path, patience: float = 0.0) -> Iterator[int]:
    """Holds the workspace, in this process and those that it starts, as long as one of them lives.

    Args:
        workspace: of the run.
        patience: seconds to wait for the processes of a run that was killed.

    Yields:
        The file descriptor of the lock.

    Raises:
        Refused: `workspace-busy`.
    """
    until = time.monotonic() + patience
    while (lock := lock_file(workspace / ".lock")) is None:
        if time.monotonic() >= until:
            raise Refused(
                "workspace-busy",
                "a run is writing into the workspace",
                str(workspace),
                "wait for its end, or end it",
            )
        time.sleep(0.05)
    with lock as file:
        try:
            yield file.fileno()
        finally:
            # Processes that were started share the lock, and some take a moment to go.
            fcntl.flock(file, fcntl.LOCK_UN)
