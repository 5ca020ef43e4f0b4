"""Progress bars and tables of scores for the commands."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from consortium.tasks.evaluation import ScoreTable


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Shows a bar on a terminal, nothing elsewhere; yields a function of steps done and total."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=True)


def print_table(scores: "ScoreTable") -> None:
    """Prints a table of scores and the notes below it."""
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for title in scores.names:
        table.add_column(Text(plain(title)), overflow="fold")
    for title in scores.figures:
        table.add_column(Text(plain(title)), justify="right")
    for section in scores.sections:
        table.add_section()
        for row in section:
            table.add_row(*(Text(plain(cell)) for cell in row))
    console = table_console()
    console.print(table)
    for note in scores.notes:
        console.print(Text(plain(note)))


def table_console() -> "Console":
    """Returns the console for a table of scores; wide enough for it if there is no terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)


def plain(text: str) -> str:
    """Replaces control characters: others may have chosen the names to steer the terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)
