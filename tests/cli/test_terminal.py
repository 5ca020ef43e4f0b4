"""Nobody else's text steers a terminal: it is shown as it is written, without its commands."""

import ast
import io
from pathlib import Path

import pytest
from rich.table import Table

import consortium.cli
from consortium.cli.progress import RunProgress
from consortium.cli.terminal import say, terminal
from consortium.core.errors import Refused
from consortium.core.printable import printable
from consortium.core.site_policy import ERRORS, note_error
from consortium.runs.base import View

TITLE = "\x1b]0;owned\x07"
HOSTILE = [
    TITLE,
    "\x1b[2J\x1b[31mred",
    "a\rb",
    "a\n- north agreed",
    "\x9b31m",
    "\u202eevil",
    "\u200bhidden",
    "\ud800",
    "a\tb",
]
MARKED_UP = ["[bold]x[/bold]", "[link=https://evil.example]x[/link]", "[/x]", ":warning:"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_line_holds_no_command_for_the_terminal(capsys, text):
    say(f"north{text}")
    say(f"north{text}", error=True)
    for printed in capsys.readouterr():
        assert printed.endswith("\n")
        assert printed[:-1].isprintable()
        assert "?" in printed


@pytest.mark.parametrize("text", [*HOSTILE, *MARKED_UP])
def test_neither_do_tables_and_styled_lines(text):
    file = io.StringIO()
    table = Table(text, title=text)
    table.add_row(text, style="bold red")
    console = terminal(file=file, width=200)
    console.print(text)
    console.print(table)
    printed = file.getvalue()
    assert all(line.isprintable() for line in printed.split("\n"))
    assert printed.count(printable(text).strip()) == 4


def test_a_run_whose_hospital_has_a_hostile_name_is_shown(tiny):
    console = terminal(file=io.StringIO(), force_terminal=True, width=120)
    name = f"[/x]{TITLE}"
    progress = {"stage": "train", "round": 0, "rounds": 2, "step": 1, "steps": 2, "process": 1}
    record = {"round": 0, "asked": [name, "b"], "answered": ["b"], "score": None}
    with RunProgress(console) as shown:
        shown(View(tiny(), [], {name: progress}))
        shown(View(tiny(), [record], {name: progress}))
    printed = console.file.getvalue()
    assert "[/x]" in printed
    assert "owned\x07" not in printed
    assert "\x1b]" not in printed


@pytest.mark.parametrize("text", HOSTILE)
def test_errors_are_one_printable_line_wherever_they_are_shown_or_logged(tmp_path, text):
    error = Refused(f"code{text}", f"what{text}", f"where{text}", f"todo{text}")
    assert str(error).isprintable()
    note_error(tmp_path, error)
    note_error(tmp_path, ValueError(f"x{text}"))
    logged = (tmp_path / ERRORS).read_text()
    assert all(line.isprintable() for line in logged.split("\n"))


def calls_in(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id


def test_no_command_prints_in_any_other_way():
    folder = Path(consortium.cli.__file__).parent
    modules = [path for path in folder.rglob("*.py") if path.name != "terminal.py"]
    assert modules
    offenders = [
        f"{path.name} calls {name}"
        for path in modules
        for name in calls_in(path)
        if name in ("print", "Console")
    ]
    assert not offenders
