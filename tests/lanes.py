"""Which tests start processes of FLARE, which share a worker, and which start first.

Hooks for `tests/conftest.py`. A test that starts a process of FLARE has the mark `flare`, and any
other test that starts one fails. What is dear to make (a federation, a finished run) is made in one
worker: the tests that use it are one group. All other tests of FLARE go wherever a worker is free,
and those of a file that starts none stay together, for they share what their file makes.
"""

import sys
from pathlib import PurePath

import pytest

DEAR = {"checkout", "finished", "federation_folder", "workspace"}
"""Fixtures, each a federation or a finished run, that one worker makes."""

LONGEST = ("federation_folder", "checkout", "workspace", "finished")
"""Groups that start first, so that both workers end at about the same time."""

_PROCESSES = ("nvflare", "sub_start.sh", "start.sh", "fl_admin.sh")
_may_start = [True]


def _group(item: pytest.Item) -> str:
    path = item.path.relative_to(item.config.rootpath)
    if item.get_closest_marker("flare") is None:
        return str(path)
    dear = sorted(DEAR.intersection(getattr(item, "fixturenames", ())))
    if not dear:
        return ""
    # The federation of tests/flare/conftest.py serves several files.
    session = item.session._fixturemanager.getfixturedefs(dear[-1], item)
    shared = bool(session) and session[-1].scope == "session"
    return dear[-1] if shared else f"{path}-{dear[-1]}"


def _turn(item: pytest.Item, group: str) -> int:
    if item.get_closest_marker("flare") is None:
        return len(LONGEST) + 1
    name = group.rpartition("-")[2]
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts what takes long in front and what belongs together into one group."""
    groups = {item: _group(item) for item in items}
    for item, group in groups.items():
        if group:
            item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: (_turn(item, groups[item]), groups[item]))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """From now on, whether a process of FLARE may be started."""
    _may_start[0] = item.get_closest_marker("flare") is not None


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event != "subprocess.Popen" or _may_start[0]:
        return
    words = arguments[1] if isinstance(arguments[1], list | tuple) else [arguments[1]]
    for word in map(str, words):
        named = word.startswith("nvflare.") or PurePath(word).name in _PROCESSES
        if named or PurePath(word).parent.name == "scripts":
            raise AssertionError(f"only a test with the mark `flare` may start {word}")


sys.addaudithook(_watch)
