"""Progress bars and tables of scores for the commands."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from consortium.cli.terminal import terminal

if TYPE_CHECKING:
    from rich.console import Console

    from consortium.tasks.evaluation import ScoreTable


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Shows a bar on a terminal, nothing elsewhere; yields a function of steps done and total."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.progress import Progress

    with Progress(console=terminal(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=True)


def print_table(scores: "ScoreTable") -> None:
    """Prints a table of scores and the notes below it."""
    from rich.table import Table

    table = Table()
    for title in scores.names:
        table.add_column(title, overflow="fold")
    for title in scores.figures:
        table.add_column(title, justify="right")
    for section in scores.sections:
        table.add_section()
        for row in section:
            table.add_row(*row)
    console = table_console()
    console.print(table)
    for note in scores.notes:
        console.print(note)


def table_console() -> "Console":
    """Returns the console for a table of scores; wide enough for it if there is no terminal."""
    console = terminal()
    return console if console.is_terminal else terminal(width=160)
