"""Measures time and memory of rounds with a large model, against stock FLARE.

First: four hospitals and 60 million parameters in federations of startup kits, ours and FLARE's in
turns, as in the benchmark `round`. Then: the memory of the orchestrator's process with 4, 16 and 32
hospitals and 20 million parameters, in FLARE's simulator; these hospitals need only numpy and all
answer at once.

Invariants: memory is the largest proportional set size that was seen (pages shared by processes
count once); a hospital's memory is that of its job's process and its trainer process together.
"""

import shutil
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from scripts.benchmarks.memory import watched
from scripts.benchmarks.report import LEAST, Row, make_row
from scripts.benchmarks.round import run_once
from scripts.benchmarks.round_jobs import Size, write_light, write_ours, write_tuned
from scripts.benchmarks.round_places import federated, simulated
from scripts.benchmarks.scale import run_surely

from consortium.synthetic.dataset import generate
from consortium.synthetic.hospitals import HOSPITALS

_OURS, _TUNED = "ours", "stock FLARE, tuned"
_LARGE = Size(hospitals=4, turns=3, rounds=3, seconds=0.5, features=[330, 660, 1310, 2200])
"""Size with a network of 60.5 million parameters."""
_MANY = (4, 16, 32)
_FEATURES = [190, 380, 760, 1290]
"""Features of a network of 20.4 million parameters."""


def measure(quick: bool) -> list[Row]:
    """Runs the jobs.

    Args:
        quick: a tiny model, one run of one round.
    """
    return _large(quick) + _many(quick)


def _large(quick: bool) -> list[Row]:
    size = Size(1, 1, 1, 0.1, [4, 8]) if quick else _LARGE
    added: dict[str, list[float]] = {}
    memory: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        few = [replace(HOSPITALS[i], patients=2, held_out=0) for i in range(size.hospitals)]
        generate(folder / "data", few, seed=0, in_plane=32, slices=6)
        with federated(folder, size) as places:
            for _ in range(size.turns):
                for name, write, start, place in (
                    (_OURS, write_ours, places.ours, "ours"),
                    (_TUNED, write_tuned, places.stock, "stock"),
                ):
                    with watched(folder / place) as peaks:
                        parts = run_once(folder / "run", size, write, start)
                    shutil.rmtree(folder / "run", ignore_errors=True)
                    added.setdefault(name, []).extend(part.added for part in parts)
                    memory.setdefault(f"{name}: the orchestrator's process", []).append(
                        peaks.server
                    )
                    memory.setdefault(f"{name}: the largest hospital", []).append(peaks.site)
                    print(
                        f"{name}: {statistics.median(added[name]):.2f} s a round,"
                        f" {peaks.server:.0f} and {peaks.site:.0f} MB",
                        flush=True,
                    )
    rows = []
    for name, found in added.items():
        claims = name == _OURS and len(found) >= LEAST
        limit = statistics.median(added[_TUNED]) if claims else None
        case = f"{name}: a round less the slowest training"
        rows.append(make_row(case, found, "s a round", target=limit))
    return rows + [make_row(name, used, "MB") for name, used in memory.items()]


def _many(quick: bool) -> list[Row]:
    rows = []
    for hospitals in (1, 2) if quick else _MANY:
        size = Size(hospitals, 1, 1 if quick else 3, 0.0, [4, 8] if quick else _FEATURES)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
            folder = Path(temporary)
            with simulated(folder, size) as places, watched(folder / "run") as peaks:
                run_surely(folder / "run", size, write_light, places.ours)
        rows.append(
            make_row(f"{hospitals} hospitals: the orchestrator's process", [peaks.server], "MB")
        )
        print(f"{rows[-1].case}: {peaks.server:.0f} MB", flush=True)
    return rows
