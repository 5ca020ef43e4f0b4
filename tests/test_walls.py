"""The walls of the house: which room may import which."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "custom" / "consortium"
MODULES = sorted(PACKAGE.rglob("*.py"))

ALLOWED = {
    "aggregation": {"protocol", "settings"},
    "cli": {
        "client",
        "core",
        "flare",
        "imaging",
        "kits",
        "membership",
        "models",
        "report",
        "runs",
        "settings",
        "study",
        "tasks",
    },
    "client": {"core", "models", "orchestration", "protocol", "settings", "tasks"},
    "confounding": set(),
    "core": set(),
    "flare": {
        "client",
        "core",
        "kits",
        "orchestration",
        "protocol",
        "server",
        "settings",
        "study",
        "tasks",
    },
    "imaging": {"core"},
    "kits": {"core"},
    "membership": {"core", "flare", "kits"},
    "models": {"core", "protocol", "settings", "tasks"},
    "orchestration": {"core"},
    "protocol": {"confounding", "core"},
    "report": {"confounding", "core", "imaging", "orchestration", "protocol", "settings", "tasks"},
    "runs": {
        "client",
        "core",
        "flare",
        "kits",
        "membership",
        "models",
        "orchestration",
        "protocol",
        "server",
        "settings",
        "study",
        "tasks",
    },
    "server": {
        "aggregation",
        "confounding",
        "core",
        "models",
        "orchestration",
        "protocol",
        "settings",
    },
    "settings": {"core", "protocol"},
    "study": {"core", "orchestration", "settings", "tasks"},
    "synthetic": {"core"},
    "tasks": {"confounding", "core", "imaging", "protocol", "settings", "synthetic"},
}
"""Each room, with the rooms that it may import beside itself."""

NVFLARE = {"flare"}
"""Rooms that may import nvflare."""
NO_TORCH = {
    "core",
    "governance",
    "kits",
    "membership",
    "orchestration",
    "report",
    "settings",
    "study",
}
"""Rooms that may not import torch."""


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(path):
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def rooms_in(package):
    return {path.parent.name for path in package.glob("*/__init__.py")}


def is_allowed(room, name):
    """Whether a module of a room may import what is called `name`."""
    top, _, rest = name.partition(".")
    if top == "consortium":
        other = rest.partition(".")[0]
        return other == room or other not in ALLOWED or other in ALLOWED.get(room, ())
    return (top != "nvflare" or room in NVFLARE) and (top != "torch" or room not in NO_TORCH)


def test_the_walls_hold():
    offenders = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in MODULES
        for name in imported(path)
        if not is_allowed(room_of(path), name)
    ]
    assert not offenders, "\n".join(offenders)


def test_every_room_is_in_the_table():
    assert rooms_in(PACKAGE) == ALLOWED.keys()


def test_a_room_may_import_what_it_imports_and_no_more():
    unused = {(room, other) for room, others in ALLOWED.items() for other in others}
    for path in MODULES:
        for name in imported(path):
            unused.discard((room_of(path), f"{name}.".split(".")[1]))
    assert not unused


def test_no_imports_run_in_a_circle():
    left = {room: set(rooms) for room, rooms in ALLOWED.items()}
    while free := [room for room, rooms in left.items() if not rooms & left.keys()]:
        for room in free:
            del left[room]
    assert not left


@pytest.mark.parametrize(
    ("room", "name", "allowed"),
    [
        ("aggregation", "consortium.protocol.update.Update", True),
        ("aggregation", "consortium.aggregation.rule", True),
        ("aggregation", "consortium.server.run", False),
        ("client", "nvflare.apis.client.Client", False),
        ("core", "torch.Tensor", False),
        ("core", "consortium.__version__", True),
        ("runs", "consortium.cli.main", False),
        ("server", "consortium.cli.main", False),
    ],
)
def test_the_table_is_heeded(room, name, allowed):
    assert is_allowed(room, name) == allowed


def test_the_top_level_of_the_package_holds_entry_points_only():
    assert {path.name for path in PACKAGE.glob("*.py")} <= {"__init__.py", "__main__.py"}


def test_every_room_is_a_package_so_that_an_installation_holds_it():
    rooms = {path.parent for path in PACKAGE.rglob("*") if path.suffix in (".py", ".j2", ".json")}
    assert not [room for room in rooms if not (room / "__init__.py").is_file()]
