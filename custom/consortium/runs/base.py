"""A run over a folder of hospitals on one machine: what is made sure before, and how far it is."""

import contextlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from consortium.core.errors import Refused
from consortium.core.json_files import read_json_object
from consortium.models.bundle import load_start
from consortium.models.networks import network_config
from consortium.settings.base import Settings, override
from consortium.study.job_folder import SETTINGS, prepare_job
from consortium.tasks.folders import hospital_folders
from consortium.tasks.registry import parse_settings, task_of

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


def look(settings: Settings, rounds: Path, states: Mapping[str, Path]) -> View:
    """Takes a look at a running job.

    Args:
        settings: of the job.
        rounds: its `rounds.jsonl`.
        states: of each hospital, the folder that holds a folder a run.
    """
    told = {}
    for name, folder in states.items():
        for path in folder.glob("*/progress.json"):
            with contextlib.suppress(OSError, ValueError):
                told[name] = json.loads(path.read_text(encoding="utf-8"))
    records = []
    with contextlib.suppress(OSError, ValueError):
        lines = rounds.read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
    return View(settings, records, told)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRun:
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
