"""Measures rounds with many hospitals, against stock FLARE and Flower's simulation.

Every hospital answers at once with a change of a small model, so that only the cost of the
orchestration is measured. Ours and stock FLARE's jobs run in FLARE's simulator, one process for
each hospital, with hospitals that need only numpy (`scale_parts`). Ours has the shipped server,
which validates, aggregates exactly, writes checkpoints and records. Stock has FLARE's numpy
persistor and sets every interval that FLARE lets a job set to 0.05 s. Ours also runs in process.
Flower's simulation (Ray) runs clients as tasks in one worker process per core, in its own
environment (`.bench/flower` in the checkout, made if missing).

FLARE's simulator chooses its ports beforehand. If another process takes one, a site is missing and
the run waits for ever. A run that closes no round in time is therefore started again.

Invariants: a round lasts from its start to the start of the next one; the first round of a run,
which opens everything, is not counted.
"""

import json
import shutil
import statistics
import tempfile
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
from nvflare.app_common.app_event_type import AppEventType
from scripts.benchmarks import round_parts
from scripts.benchmarks.flower import run_in_flower
from scripts.benchmarks.light_trainer import open_light
from scripts.benchmarks.report import LEAST, Row, make_row
from scripts.benchmarks.round_jobs import (
    Size,
    WriteJob,
    count_parameters,
    light_settings,
    write_light,
    write_light_stock,
)
from scripts.benchmarks.round_places import Start, simulated

from consortium.core.errors import EnvironmentProblem
from consortium.core.json_files import read_json_object
from consortium.core.site_policy import ALL_COLUMNS, Privacy, Site
from consortium.runs.in_process import InProcessFederation, study_of
from consortium.settings.base import override
from consortium.study.job_folder import SETTINGS, find_job
from consortium.tasks.folders import hospital_folders
from consortium.tasks.registry import parse_settings
from consortium.tasks.tabular.synthetic import generate_tables

_OURS, _STOCK, _FLOWER = "ours", "stock FLARE, tuned", "Flower's simulation"
_IN_PROCESS = "ours, in process"
_OF_FLOWERS = 0.1  # of Flower's time per round
_MANY, _MANY_TARGET = 100, 10.0  # hospitals that train in process, and seconds per round
_FEATURES = [16, 32, 64]
_HOSPITALS = (4, 16, 32, 64)
_TURNS, _ROUNDS = 5, 6
_NEEDED = 200 * 2**20  # bytes of memory for a hospital's process, with a margin
_SITE = "nvflare.private.fed.app.simulator.simulator_worker"
_TARGET = 120.0  # MB a site
_PATIENCE = 900.0  # seconds for one run
_START = 300.0  # seconds until a run has closed its first round
_TRIES = 3
_POLL = 0.3


def measure(quick: bool) -> list[Row]:
    """Runs the jobs.

    Args:
        quick: one run of one round with two hospitals, without Flower.
    """
    turns, rounds = (1, 1) if quick else (_TURNS, _ROUNDS)
    room = psutil.virtual_memory().available // _NEEDED
    rows = []
    for hospitals in [2] if quick else [count for count in _HOSPITALS if count <= room]:
        size = Size(hospitals, turns, rounds, 0.0, _FEATURES)
        seconds: dict[str, list[float]] = {}
        memory: dict[str, list[float]] = {}
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
            folder = Path(temporary)
            with simulated(folder, size) as places:
                for _ in range(turns):
                    for name, write in ((_OURS, write_light), (_STOCK, write_light_stock)):
                        found, used = run_surely(folder / "run", size, write, places.ours)
                        seconds.setdefault(name, []).extend(found)
                        memory.setdefault(name, []).append(used)
                    seconds.setdefault(_IN_PROCESS, []).extend(run_light(folder / "light", size))
            if not quick:
                seconds[_FLOWER] = [one for _ in range(turns) for one in _flower(folder, size)]
        rows += _rows(size, seconds, memory)
    many = 4 if quick else _MANY
    found = train_many(many, rounds)
    case = f"{many} hospitals that train, in process"
    claims = len(found) >= LEAST
    rows.append(make_row(case, found, "s a round", target=_MANY_TARGET if claims else None))
    return rows


def _rows(size: Size, seconds: dict[str, list[float]], memory: dict[str, list[float]]) -> list[Row]:
    stock = statistics.median(seconds[_STOCK])
    rows = []
    for name, found in seconds.items():
        case = f"{size.hospitals} hospitals, {name}"
        target = stock if name == _OURS else None
        if name == _IN_PROCESS and _FLOWER in seconds:
            target = _OF_FLOWERS * statistics.median(seconds[_FLOWER])
        target = target if len(found) >= LEAST else None
        rows.append(make_row(case, found, "s a round", target=target))
        print(f"{case}: {statistics.median(found):.3f} s a round", flush=True)
    for name, used in memory.items():
        case = f"{size.hospitals} hospitals, {name}: largest site"
        claims = name == _OURS and len(used) >= LEAST
        rows.append(make_row(case, used, "MB", target=_TARGET if claims else None))
        print(f"{case}: {statistics.median(used):.0f} MB", flush=True)
    return rows


class _NotBegun(Exception):
    """A run closed no round in time, or ended before."""


def run_surely(work: Path, size: Size, write: WriteJob, start: Start) -> tuple[list[float], float]:
    """Runs a job, and starts it again if no round begins; see `_run`."""
    for _ in range(_TRIES):
        with suppress(_NotBegun):
            return _run(work, size, write, start)
        print(f"{size.hospitals} hospitals: no round began; starting again", flush=True)
    raise EnvironmentProblem(
        "no-rounds", "no round was closed", "FLARE's simulator", "try fewer hospitals"
    )


def _run(work: Path, size: Size, write: WriteJob, start: Start) -> tuple[list[float], float]:
    """Runs a job once in FLARE's simulator; returns the rounds' seconds and the largest site's MB.

    Raises:
        _NotBegun: no round was closed in time, or before FLARE ended.
    """
    moments = work / "moments"
    moments.mkdir(parents=True)
    job = work / "job" / "benchmark"
    write(job, moments, size)
    started, largest = time.monotonic(), 0.0
    try:
        with start(job, work) as running:
            while True:
                lasted_so_far = time.monotonic() - started
                ended = running.ended() or lasted_so_far > _PATIENCE
                largest = max(largest, _largest_site(work))
                begun = _begun(moments / f"{round_parts.SERVER}.jsonl")
                if len(begun) >= size.rounds + 2:
                    lasted = [after - before for before, after in pairwise(begun)]
                    return lasted[1 : size.rounds + 1], largest
                if len(begun) < 2 and (ended or lasted_so_far > _START):
                    raise _NotBegun
                if ended:
                    last = running.log.read_text(errors="replace").strip().splitlines()[-1:]
                    what = f"only {len(begun)} rounds began ({last})"
                    raise EnvironmentProblem("no-rounds", what, "FLARE's simulator", "run again")
                time.sleep(_POLL)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _begun(file: Path) -> list[float]:
    """Returns the start times of the rounds."""
    with suppress(OSError, ValueError):
        entries = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        started = [e for e in entries if e["what"] == AppEventType.ROUND_STARTED]
        return [entry["moments"][0] for entry in started]
    return []


def _largest_site(work: Path) -> float:
    """Returns the resident memory of the largest hospital's process, in MB."""
    found = [0.0]
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            if _SITE in words and any(word.startswith(str(work)) for word in words):
                found.append(process.memory_info().rss / 1e6)
    return max(found)


def run_light(work: Path, size: Size, workers: int | None = None) -> list[float]:
    """Runs the light job once in process; returns the seconds of its rounds."""
    settings = parse_settings(light_settings(size))
    sites = [Site(name, work, work / "state" / name) for name in size.names]
    try:
        with InProcessFederation(
            study_of(settings, size.names),
            sites,
            results=work / "results",
            checkpoints=work / "checkpoints",
            workers=workers,
            open_trainer=open_light,
        ) as federation:
            return _time_rounds(federation, size.rounds + 1)[1:]
    finally:
        shutil.rmtree(work, ignore_errors=True)


def train_many(hospitals: int, rounds: int) -> list[float]:
    """Trains many hospitals with generated tables in process; returns the seconds of the rounds."""
    job = find_job("heart_disease")
    settings = parse_settings(override(read_json_object(job / SETTINGS), [f"rounds={rounds + 2}"]))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        generate_tables(folder / "data", seed=0)
        made = sorted(hospital_folders(folder / "data").values())
        sites = [
            Site(
                f"hospital-{number:03d}",
                made[number % len(made)],
                folder / "s" / str(number),
                privacy=Privacy(columns=ALL_COLUMNS),
            )
            for number in range(hospitals)
        ]
        with InProcessFederation(
            study_of(settings, [site.name for site in sites]),
            sites,
            results=folder / "results",
            checkpoints=folder / "checkpoints",
        ) as federation:
            return _time_rounds(federation, rounds + 1)[1:]


def _time_rounds(federation: InProcessFederation, rounds: int) -> list[float]:
    found = []
    for number in range(1, rounds + 1):
        started = time.monotonic()
        federation.train(number)
        found.append(time.monotonic() - started)
    return found


def _flower(folder: Path, size: Size) -> list[float]:
    """Runs Flower's simulation once; returns the seconds of its rounds."""
    model = folder / "model.npz"
    np.savez(model, np.zeros(count_parameters(size), np.float32))
    found: list[float] = run_in_flower(
        "scale_flower.py", str(size.hospitals), str(size.rounds), str(model), patience=_PATIENCE
    )
    return found
