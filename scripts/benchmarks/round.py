"""Measures the wall time of a round less the slowest hospital's training, against stock FLARE.

Every hospital is its own process: in FLARE's simulator, or with `--provisioned` in two federations
of startup kits with mutual TLS on this machine, one of our kits and one of FLARE's. The jobs run in
turns. "Ours" is the shipped job with its server's configuration and the real Executor; a sleep of
known length replaces the optimiser steps, and no hospital validates. "Stock" is FLARE's own
ScatterAndGather, PyTorch persistor, weighted aggregator and full-model generator, with a minimal
Executor that sleeps as long and sends a change of the same names and shapes. "Tuned" sets every
interval that FLARE lets a job set to 0.05 s.

Invariants: a round lasts from its start to the start of the next one, so it includes whatever the
server does in between; the first round of a run, which opens everything, is not counted. The parts
of a round add up to the round only roughly, as each is a median.
"""

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from pathlib import Path

from nvflare.app_common.app_event_type import AppEventType
from scripts.benchmarks import round_parts
from scripts.benchmarks.report import LEAST, Row, make_row
from scripts.benchmarks.round_jobs import Size, WriteJob, write_default, write_ours, write_tuned
from scripts.benchmarks.round_places import Places, Start, federated, simulated

from consortium.core.errors import EnvironmentProblem
from consortium.synthetic.dataset import generate
from consortium.synthetic.hospitals import HOSPITALS

_PATIENCE = 900  # seconds for one run
_POLL = 0.3  # seconds between two looks whether a run is done
OpenPlaces = Callable[[Path, Size], AbstractContextManager[Places]]
_OURS, _TUNED, _DEFAULT = "ours", "stock FLARE, tuned", "stock FLARE, its defaults"

FULL = Size(hospitals=4, turns=5, rounds=10, seconds=0.5, features=[96, 192, 384, 640])
"""Size with a network of 5.2 million parameters."""
QUICK = Size(hospitals=1, turns=1, rounds=1, seconds=0.1, features=[4, 8])


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one round, in seconds.

    Attributes:
        added: the round less the slowest hospital's training.
        out: from its start until the last hospital has the model and trains.
        back: from the end of the last training until its update is accepted.
        seen: from then until the workflow notices that all have answered.
        close: from then until the new model is on disk.
        rest: from then to the start of the next round.
    """

    added: float
    out: float
    back: float
    seen: float
    close: float
    rest: float


_TITLES = {
    "out": "send the model",
    "back": "receive the updates",
    "seen": "notice that all have answered",
    "close": "aggregate and save",
    "rest": "until the next round",
}


def measure(quick: bool) -> list[Row]:
    """Runs the jobs in FLARE's simulator.

    Args:
        quick: one run of one round with a tiny network.
    """
    return _measure(quick, simulated, {_OURS: write_ours, _TUNED: write_tuned})


def measure_provisioned(quick: bool) -> list[Row]:
    """Runs the jobs in federations of startup kits; see `measure`."""
    jobs = {_OURS: write_ours, _TUNED: write_tuned, _DEFAULT: write_default}
    return _measure(quick, federated, jobs)


def _measure(quick: bool, open_places: OpenPlaces, jobs: Mapping[str, WriteJob]) -> list[Row]:
    size = QUICK if quick else FULL
    runs: dict[str, list[list[Parts]]] = {name: [] for name in jobs}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        few = [replace(HOSPITALS[i], patients=2, held_out=0) for i in range(size.hospitals)]
        generate(folder / "data", few, seed=0, in_plane=32, slices=6)
        with open_places(folder, size) as places:
            for turn in range(size.turns):
                for name in list(jobs)[:: -1 if turn % 2 else 1]:
                    work, write_job = folder / "run", jobs[name]
                    start = places.ours if write_job is write_ours else places.stock
                    runs[name].append(run_once(work, size, write_job, start))
                    shutil.rmtree(work, ignore_errors=True)
    return _rows(runs)


def _rows(runs: Mapping[str, list[list[Parts]]]) -> list[Row]:
    """Makes the rows: time added to a round, ratio to tuned stock FLARE, parts of the round."""
    added = {name: [each.added for run in found for each in run] for name, found in runs.items()}
    enough = len(added[_OURS]) >= LEAST
    rows = []
    for name, found in added.items():
        limit = statistics.median(added[_TUNED]) if enough and name == _OURS else None
        case = f"{name}: a round less the slowest training"
        rows.append(make_row(case, found, "s a round", target=limit))
    ratios = [
        _added(one) / _added(other) for one, other in zip(runs[_OURS], runs[_TUNED], strict=True)
    ]
    rows.append(make_row("ours to stock FLARE tuned, turn by turn", ratios, "ratio"))
    for name, found in runs.items():
        for field in fields(Parts)[1:]:
            seconds = [getattr(parts, field.name) for run in found for parts in run]
            rows.append(make_row(f"{name}: {_TITLES[field.name]}", seconds, "s a round"))
    return rows


def _added(run: list[Parts]) -> float:
    return statistics.median(each.added for each in run)


def run_once(work: Path, size: Size, write_job: WriteJob, start: Start) -> list[Parts]:
    """Runs a job once; returns the parts of its counted rounds."""
    moments = work / "moments"
    moments.mkdir(parents=True)
    job = work / "job" / "benchmark"
    write_job(job, moments, size)
    deadline = time.monotonic() + _PATIENCE
    with start(job, work) as running:
        while True:
            ended = running.ended() or time.monotonic() > deadline
            try:
                return read_parts(moments, size)
            except (OSError, ValueError, KeyError) as error:
                if ended:
                    raise _no_rounds(running.log, size) from error
            time.sleep(_POLL)


def _no_rounds(log: Path, size: Size) -> EnvironmentProblem:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line for line in lines if "Error" in line or " ERROR " in line]
    last = errors[-1] if errors else "no error in its log"
    return EnvironmentProblem("no-rounds", f"FLARE ended before {size.rounds + 2} rounds", last)


def read_parts(moments: Path, size: Size) -> list[Parts]:
    """Reads the parts of a run's counted rounds.

    Args:
        moments: folder of the files that `round_parts.note` wrote.
        size: of the run; counted from its second round, and the round after the last must have
            begun.

    Raises:
        OSError, ValueError, KeyError: a moment is missing or partly written.
    """
    server: dict[tuple[str, int], list[float]] = {}
    training: dict[int, list[list[float]]] = {}
    for path in moments.glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            if path.stem == round_parts.SERVER:
                server.setdefault((entry["what"], entry["round"]), []).extend(entry["moments"])
            else:
                training.setdefault(entry["round"], []).append(entry["moments"])
    parts = []
    for number in range(1, size.rounds + 1):
        if len(training[number]) != size.hospitals:
            raise ValueError(f"{len(training[number])} hospitals trained in round {number}")
        parts.append(_parts_of(server, training[number], number))
    return parts


def _parts_of(
    server: dict[tuple[str, int], list[float]], training: list[list[float]], number: int
) -> Parts:
    begun = server[AppEventType.ROUND_STARTED, number][0]
    next_begun = server[AppEventType.ROUND_STARTED, number + 1][0]
    taken = max(server[AppEventType.AFTER_CONTRIBUTION_ACCEPT, number])
    seen = server[AppEventType.BEFORE_AGGREGATION, number][0]
    done = server[AppEventType.ROUND_DONE, number][0]
    slowest = max(end - start for start, end in training)
    return Parts(
        added=next_begun - begun - slowest,
        out=max(start for start, _ in training) - begun,
        back=taken - max(end for _, end in training),
        seen=seen - taken,
        close=done - seen,
        rest=next_begun - done,
    )
