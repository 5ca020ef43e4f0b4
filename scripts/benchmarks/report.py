"""Results of a benchmark: its rows, their table and JSON, and the check of the targets.

A row's value is the median of n measurements and its spread their quartiles; or the share of n runs
with an outcome, and its exact 95 % interval. Invariants: a row with a target was measured at least
`LEAST` times; a quick run, which only shows that a benchmark works, has no targets.
"""

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from consortium.core.errors import Incomplete
from consortium.core.files import write_json

LEAST = 5
"""Minimum number of measurements of a row with a target."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a benchmark.

    Attributes:
        case: name of what was measured.
        value: median of the measurements, or a share of runs.
        unit: of the value, the spread and the target.
        n: number of measurements.
        spread: first and third quartile, or the exact 95 % interval of a share.
        target: maximum of the value; null without a target.
        met: whether the target is met; null without a target.
    """

    case: str
    value: float
    unit: str
    n: int
    spread: tuple[float, float]
    target: float | None = None
    met: bool | None = None


def make_row(
    case: str, measurements: Sequence[float], unit: str, *, target: float | None = None
) -> Row:
    """Makes a row from measurements.

    Args:
        case: name of what was measured.
        measurements: at least one; at least `LEAST` with a target.
        unit: of the measurements and the target.
        target: maximum of the median.

    Raises:
        ValueError: too few measurements.
    """
    if not measurements or (target is not None and len(measurements) < LEAST):
        raise ValueError(f"{len(measurements)} measurements are too few for {case}")
    value = statistics.median(measurements)
    spread = (value, value)
    if len(measurements) > 1:
        low, _, high = statistics.quantiles(measurements, n=4, method="inclusive")
        spread = (low, high)
    met = None if target is None else value <= target
    return Row(case, value, unit, len(measurements), spread, target, met)


def without_claims(rows: Sequence[Row]) -> list[Row]:
    """Removes the targets, for a quick run."""
    return [replace(row, target=None, met=None) for row in rows]


def describe_machine() -> str:
    """Describes processor, load before the benchmark, memory and versions; no names, no paths.

    The load is the mean number of running processes in the last minute. Well above zero means that
    other processes slowed the benchmark down.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{_processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"{memory:.0f} GiB, Python {platform.python_version()}, torch {version('torch')}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def to_dict(benchmark: str, machine: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Returns the content for `--json`."""
    return {"benchmark": benchmark, "machine": machine, "rows": [asdict(row) for row in rows]}


def print_table(benchmark: str, machine: str, rows: Sequence[Row]) -> None:
    """Prints the rows; never cuts them, even on a narrow terminal."""
    table = Table(title=benchmark, title_justify="left")
    table.add_column("case", no_wrap=True)
    for title in ("value", "spread", "unit", "n", "target", "met"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.case,
            f"{row.value:.3f}",
            f"{row.spread[0]:.3f} to {row.spread[1]:.3f}",
            row.unit,
            str(row.n),
            "" if row.target is None else f"{row.target:.3f}",
            "" if row.met is None else "yes" if row.met else "NO",
        )
    console = Console(highlight=False)
    unbounded = console.options.update(width=10**4)
    console.width = max(console.width, console.measure(table, options=unbounded).maximum)
    console.print(table)
    console.print(machine, soft_wrap=True)


def publish(benchmark: str, machine: str, rows: Sequence[Row], json_file: Path | None) -> None:
    """Prints the rows, writes them to the JSON file if there is one, and checks the targets.

    Raises:
        Incomplete: `target-missed`.
    """
    print_table(benchmark, machine, rows)
    if json_file is not None:
        write_json(json_file, to_dict(benchmark, machine, rows))
    missed = [row for row in rows if row.met is False]
    if missed:
        misses = "; ".join(
            f"{row.case}: {row.value:.3f} {row.unit}, target {row.target:.3f}" for row in missed
        )
        raise Incomplete("target-missed", misses, benchmark, "run again on an idle machine")
