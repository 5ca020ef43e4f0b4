"""The walls of the house: who may import what."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "custom" / "consortium"
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module


def room(path):
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def within(name, package):
    return name == package or name.startswith(f"{package}.")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_walls_hold(path):
    names = list(imported(path))
    if room(path) != "flare":
        assert not [name for name in names if within(name, "nvflare")]
    if room(path) in ("orchestration", "governance", "kits"):
        assert not [name for name in names if within(name, "torch")]
    if room(path) not in ("cli", ""):
        assert not [name for name in names if within(name, "consortium.cli")]
    if room(path) not in ("cli", "report", ""):
        assert not [name for name in names if within(name, "consortium.report")]


def test_the_walls_are_looked_at():
    assert len(MODULES) > 30
    assert any(within(name, "nvflare") for path in MODULES for name in imported(path))


def test_every_room_is_a_package_so_that_an_installation_holds_it():
    rooms = {path.parent for path in PACKAGE.rglob("*") if path.suffix in (".py", ".j2")}
    assert not [room for room in rooms if not (room / "__init__.py").is_file()]


def test_the_process_of_a_job_at_a_hospital_does_without_torch():
    found = (
        "import sys, consortium.flare.client.executor; print({'torch', 'monai'} & {*sys.modules})"
    )
    assert subprocess.check_output([sys.executable, "-c", found], text=True) == "set()\n"
