"""What `consortium evaluate` writes and prints, whatever the patients are kept as."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from consortium.protocol.metrics import Classification

ALL = "all"
"""What the patients of all hospitals together are called."""


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing elsewhere; it takes what is done and how much there is."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def table_console() -> "Console":
    """For a table of scores; as wide as such a table is where there is no terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)


def plain(text: str) -> str:
    """Without what would steer a terminal: names come from files that others wrote."""
    return "".join(char if char.isprintable() else "?" for char in text)


def estimate(score: "Classification", figure: str) -> str:
    """A figure with its interval, for a table.

    Args:
        score: that holds it.
        figure: its name.
    """
    from consortium.report.task_text import descriptive

    value, interval = (score.figures or {}).get(figure), (score.interval or {}).get(figure)
    if value is None:
        return "not estimable"
    told = f"{value:.3f}"
    if interval is not None:
        told += " [{:.3f}, {:.3f}]".format(*interval)
    return told + (", descriptive" if descriptive(score.model_dump(), figure) else "")


def all_scores(
    cases: Sequence[Mapping[str, Any]],
    hospitals: "Mapping[str, Classification]",
    total: "Classification",
) -> dict[str, Any]:
    """As JSON values.

    Args:
        cases: what is said of each patient or X-ray.
        hospitals: the score of each.
        total: that of all patients.
    """
    return {
        "cases": cases,
        **total.model_dump(),
        "hospitals": {name: score.model_dump() for name, score in hospitals.items()},
    }
