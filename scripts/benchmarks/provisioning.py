"""Times provisioning of many hospitals, adding one, and starting and stopping a federation.

In the same run, FLARE's own builders provision the same project without ours, for the ratio.
Invariant: a measurement in which the added hospital changes a byte of another kit is an error.
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
    """Runs the trials; tiny if quick.

    Raises:
        EnvironmentProblem: `kits-changed`, or the federation does not start.
    """
    hospitals, running = (2, 1) if quick else (HOSPITALS, 4)
    trials = [_trial(hospitals, running) for _ in range(1 if quick else LEAST)]
    titles: list[tuple[str, str, float | None]] = [
        (f"provision 1 + {hospitals} hospitals", "s", 60.0),
        ("the same by FLARE's builders alone", "s", None),
        ("ratio of the two", "", None),
        ("add a hospital, every other kit unchanged", "s", 5.0),
        (f"orchestrator and {running} hospitals up", "s", 12.0),
        ("the same down", "s", 8.0),
    ]
    return [
        make_row(case, measured, unit, target=None if quick else target)
        for (case, unit, target), measured in zip(titles, zip(*trials, strict=True), strict=True)
    ]


def _trial(hospitals: int, running: int) -> tuple[float, ...]:
    """Measures each row once, in their order."""
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
            raise EnvironmentProblem("kits-changed", "the bytes of another kit changed", str(out))
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
    """Returns a project without our builder."""
    builders = [builder for builder in project["builders"] if builder["path"] != _OURS]
    return {**project, "builders": builders}


def _contents(folder: Path) -> dict[Path, bytes]:
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
