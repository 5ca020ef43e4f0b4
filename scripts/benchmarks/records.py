"""Long measurements in parts; each part is recorded when it is done and never repeated."""

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from scripts.benchmarks.lgg import ROOT
from scripts.benchmarks.report import describe_machine

from consortium.client.fork_server import PRELOADED
from consortium.core.errors import Refused, UsageError
from consortium.core.files import write_text
from consortium.settings.base import Settings

WORKERS = 2
Part = Mapping[str, Any]
"""Plain values that identify a part; its records repeat them."""


_LATER = {
    "training": {"local_epochs": None, "local_minutes": None, "optimiser": "adamw"},
    "server": {"adaptive": None},
    "update": {"compression": None},
}


def describe_settings(settings: Settings) -> dict[str, Any]:
    """Describes a job's settings for a digest; without newer settings that have their default.

    Args:
        settings: the job's.
    """
    described = settings.model_dump(by_alias=True, mode="json")
    for section, before in _LATER.items():
        for name, value in before.items():
            if described[section][name] == value:
                del described[section][name]
    return described


def collect(
    parts: Sequence[Part],
    measure: Callable[[Part], list[dict[str, Any]]],
    file: Path,
    plan: str,
) -> list[dict[str, Any]]:
    """Measures the parts that are not on record, two at a time, one torch thread each.

    Args:
        parts: in the order of measurement.
        measure: returns a part's records; runs in its own process.
        file: of the records, one JSON object per line.
        plan: digest of settings that must be the same for all records of a file.

    Returns:
        All records of the file.

    Raises:
        Refused: `other-plan`.
    """
    records = read_records(file)
    if any(record["plan"] != plan for record in records):
        raise Refused(
            "other-plan",
            "the file holds records of other settings or folds",
            str(file),
            "name another file with --records",
        )
    todo = [part for part in parts if not on_record(part, records)]
    context, started = multiprocessing.get_context("forkserver"), time.monotonic()
    # Every part has its own process; slow packages are imported only once.
    context.set_forkserver_preload(list(PRELOADED))
    with ProcessPoolExecutor(
        WORKERS,
        mp_context=context,
        max_tasks_per_child=1,
        initializer=_leave_with_parent,
    ) as pool:
        running = {pool.submit(_measure, measure, part): part for part in todo}
        for number, future in enumerate(as_completed(running), start=1):
            records += [{**record, "plan": plan} for record in future.result()]
            records.sort(key=lambda record: [str(record.get(key)) for key in running[future]])
            lines = [json.dumps(record, sort_keys=True) for record in records]
            write_text(file, "".join(f"{line}\n" for line in lines))
            left = (time.monotonic() - started) / number * (len(todo) - number) / 60
            description = ", ".join(f"{key} {value}" for key, value in running[future].items())
            print(
                f"{number} of {len(todo)}: {description}; about {left:.0f} min left",
                file=sys.stderr,
                flush=True,
            )
    return records


def _leave_with_parent() -> None:
    """Ends this process when its parent has ended: nobody would receive its records."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _measure(measure: Callable[[Part], list[dict[str, Any]]], part: Part) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    started = time.monotonic()
    records = measure(part)
    seconds = round(time.monotonic() - started)
    origin = {"seconds": seconds, "commit": _commit(), "machine": describe_machine()}
    return [{**part, **record, **origin} for record in records]


def on_file(
    quick: bool, file: Path, show: bool, measure: Callable[[Path], list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Returns the records of a table; measures those that are missing.

    Args:
        quick: refused: results on small generated data mean nothing here.
        file: of the records.
        show: measure nothing.
        measure: completes the file and returns its records.

    Raises:
        UsageError: `no-quick-run`.
    """
    if quick:
        raise UsageError(
            "no-quick-run", "this benchmark has no quick run", "--quick", "leave it out"
        )
    return read_records(file) if show else measure(file)


def read_records(file: Path) -> list[dict[str, Any]]:
    """Reads the records of a file; none if there is no file."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def on_record(part: Part, records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a part is on record."""
    return any(part.items() <= record.items() for record in records)


def conditions(records: Sequence[Mapping[str, Any]]) -> str:
    """Describes the conditions of the measurements, for the end of a table."""
    machines = sorted({record["machine"].split(", load")[0] for record in records})
    commits = sorted({record["commit"] for record in records})
    return (
        f"plan {', '.join(sorted({record['plan'] for record in records}))}, commit"
        f" {', '.join(commits)}; {'; '.join(machines)}; two parts at a time, one torch thread a"
        " process"
    )


def _commit() -> str:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "custom", "jobs/*/app")
    return git("rev-parse", "--short", "HEAD") + ("-changed" if changed else "")
