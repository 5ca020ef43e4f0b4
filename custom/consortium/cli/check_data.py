"""`consortium check-data`: checks whether a hospital's folder is fit for training.

With `--propose` it lists the columns that jobs may read, instead. Reads the folder and writes
nothing into it. Prints the findings by kind, with advice, and a line
that counts them. Colours and the progress bar appear only on terminals.
"""

import json
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from consortium.cli.terminal import say, terminal
from consortium.core.errors import Incomplete, Refused
from consortium.core.finding_codes import FINDING_CODES
from consortium.core.plurals import plural
from consortium.core.printable import printable

if TYPE_CHECKING:
    from consortium.core.findings import Finding
    from consortium.settings.base import Settings

_SHOWN = 20
"""Number of findings of one kind that are printed."""


def check_data(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="One hospital's folder.")],
    job: Annotated[
        str | None,
        typer.Option(help="Job to check for: its folder, its name or a settings.json."),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Also write the findings here, outside DIR."),
    ] = None,
    proposal: Annotated[
        str | None,
        typer.Option(
            "--propose",
            metavar="FILE",
            help="Write the columns that jobs may read to a new file, for privacy.columns of"
            " local/hospital.json, instead of checking; - prints them.",
        ),
    ] = None,
) -> None:
    """Check one hospital's folder before it trains. Nothing is written into it.

    Exit code 0: no errors, though there may be warnings. Exit code 1: errors.
    """
    for written in (json_file, None if proposal in (None, "-") else Path(str(proposal))):
        if written and written.resolve().is_relative_to(folder.resolve()):
            raise Refused(
                "inside-data", "the file is inside DIR", str(written), "choose a file elsewhere"
            )
    from consortium.core.files import write_json
    from consortium.study.job_folder import find_settings
    from consortium.tasks.folders import check_folder, count_cases
    from consortium.tasks.registry import load_settings

    settings = load_settings(find_settings(job)) if job is not None else None
    if proposal is not None:
        _propose(folder, settings, proposal)
        return
    cases, patients = count_cases(folder, settings)
    with _progress_bar() as progress:
        findings = check_folder(folder, settings, progress)
    errors = sum(finding.severity == "error" for finding in findings)
    if json_file:
        rows = [
            {"code": f.code, "severity": f.severity, "file": f.file, "detail": f.detail}
            for f in findings
        ]
        write_json(json_file, {"ok": not errors, "findings": rows})
    _print(findings)
    say(
        f"{plural(cases, 'case')}, {plural(patients, 'patient')}: "
        f"{plural(errors, 'error')}, {plural(len(findings) - errors, 'warning')}"
    )
    if errors:
        raise Incomplete(
            "findings", f"{plural(errors, 'error')} in the data", str(folder), "see the list above"
        )


def _propose(folder: Path, settings: "Settings | None", output: str) -> None:
    """Writes or prints the columns that jobs may read, for the hospital's review."""
    from consortium.core.files import write_json
    from consortium.tasks.folders import propose_columns

    if output != "-" and Path(output).exists():
        raise Refused("exists", "there is such a file", output, "name a new one, and compare both")
    found = propose_columns(folder, settings)
    if not found.columns:
        raise Refused("no-columns", "there is no table to release columns of", str(folder))
    content = {"privacy": {"columns": found.columns}}
    if output == "-":
        for line in json.dumps(content, indent=2).splitlines():
            say(line)
    else:
        write_json(Path(output), content)
        say(f"wrote {output}: {plural(len(found.columns), 'column')}")
    for note in found.notes:
        say(f"review: {note}", error=True)
    say(
        "review: keep the columns that jobs may read, and put privacy into local/hospital.json",
        error=True,
    )


@contextmanager
def _progress_bar() -> Iterator[Callable[[int, int], None] | None]:
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import Progress

    with Progress(console=terminal(stderr=True), transient=True) as bar:
        task = bar.add_task("Reading cases", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print(findings: Sequence["Finding"]) -> None:
    from rich.text import Text

    console = terminal()
    kinds = sorted(findings, key=lambda finding: (finding.severity, finding.code))
    for (severity, code), group in groupby(kinds, key=lambda f: (f.severity, f.code)):
        style = "bold red" if severity == "error" else "bold yellow"
        console.print(Text.assemble((severity, style), " ", (code, "bold")))
        for number, finding in enumerate(group):
            if number == _SHOWN:
                rest = sum(1 for _ in group) + 1
                console.print(f"  and {rest} more; --json FILE lists all")
                break
            line = ": ".join(part for part in (finding.file, finding.detail) if part)
            console.print(Text(_wrap(printable(line), console.width)), soft_wrap=True)
        console.print(
            Text(_wrap(FINDING_CODES[code].advice, console.width), "dim"),
            end="\n\n",
            soft_wrap=True,
        )


def _wrap(text: str, width: int) -> str:
    """Wraps and indents a text; a path is never broken, so that it can be copied."""
    return textwrap.fill(
        text,
        width,
        initial_indent="  ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
