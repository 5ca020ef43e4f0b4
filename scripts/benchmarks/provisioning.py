"""What it takes to provision many hospitals, to add one, and to start and end a federation.

Beside it, in the same run: FLARE's own builders on the same project without ours, as a ratio. What
always holds: a measurement in which the added hospital changed a byte of another kit is none.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from scripts.benchmarks.report import LEAST, Row, make_row

from consortium.core.errors import EnvironmentProblem
from consortium.flare.provisioner import provision
from consortium.kits.project import BUILDERS
from consortium.membership import provisioning
from consortium.runs import federation

HOSPITALS = 50
_OURS = BUILDERS[1]


def measure(quick: bool) -> list[Row]:
    """Measures; tiny where quick.

    Raises:
        EnvironmentProblem: `kits-changed`, or the federation does not come up.
    """
    hospitals, running = (2, 1) if quick else (HOSPITALS, 4)
    trials = [_trial(hospitals, running) for _ in range(1 if quick else LEAST)]
    told: list[tuple[str, str, float | None]] = [
        (f"provision 1 + {hospitals} hospitals", "s", 60.0),
        ("the same by FLARE's builders alone", "s", None),
        ("ratio of the two", "", None),
        ("add a hospital, every other kit unchanged", "s", 5.0),
        (f"orchestrator and {running} hospitals up", "s", 12.0),
        ("the same down", "s", 8.0),
    ]
    return [
        make_row(case, found, unit, target=None if quick else target)
        for (case, unit, target), found in zip(told, zip(*trials, strict=True), strict=True)
    ]


def _trial(hospitals: int, running: int) -> tuple[float, ...]:
    """One measurement of each row, in their order."""
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        names = [f"hospital-{number}" for number in range(1, hospitals + 1)]
        project = federation.describe_project(names, 8002)
        file, out = place / "project.yml", place / "out"
        YAML(typ="safe", pure=True).dump(project, file)
        create = _seconds(lambda: provisioning.create(file, out))
        plain = _seconds(lambda: provision(without_ours(project), place / "plain"))
        before = _contents(out / provisioning.KITS)
        entry = {"name": "hospital-0", "type": "client", "org": "hospital_0"}
        add = _seconds(lambda: provisioning.add(file, out, entry))
        after = _contents(out / provisioning.KITS)
        if {path: after.get(path) for path in before} != before:
            raise EnvironmentProblem("kits-changed", "another kit has other bytes", str(out))
        workspace = place / "federation"
        try:
            up = _seconds(lambda: federation.up(workspace, hospitals=running))
        finally:
            down = _seconds(lambda: federation.down(workspace))
        return create, plain, create / plain, add, up, down


def _seconds(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def without_ours(project: dict[str, Any]) -> dict[str, Any]:
    """A project that FLARE's builders provision alone."""
    builders = [builder for builder in project["builders"] if builder["path"] != _OURS]
    return {**project, "builders": builders}


def _contents(folder: Path) -> dict[Path, bytes]:
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
