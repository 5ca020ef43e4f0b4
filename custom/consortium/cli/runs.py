"""`consortium runs|status|explain|abort`: shows and aborts the orchestrator's runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from consortium.cli.terminal import say, terminal

if TYPE_CHECKING:
    from consortium.runs.status import Run

KitOption = Annotated[Path, typer.Option("--kit", metavar="DIR", help="Your admin kit.")]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="The job's id, or its first characters.")
]


def runs(kit: KitOption) -> None:
    """List the runs, newest first."""
    from rich.table import Table

    from consortium.flare.session import open_session
    from consortium.runs.status import describe

    with open_session(kit) as session:
        listed = [describe(record) for record in session.jobs()]
    table = Table("run")
    for title in ("job", "state", "submitted (UTC)", "took", "by"):
        table.add_column(title, overflow="fold")
    for run in listed:
        table.add_row(run.job[:8], run.name, run.state, run.submitted, run.duration, run.submitter)
    terminal().print(table if listed else "no job was submitted yet")


def status(run: RunArgument, kit: KitOption) -> None:
    """Show the state of a run in one line."""
    record = _find(run, kit)
    say(f"{record.job} {record.state}" + (f" after {record.duration}" if record.duration else ""))


def explain(run: RunArgument, kit: KitOption) -> None:
    """Show why a run waits or ended, and which hospitals did not take part."""
    record = _find(run, kit)
    say(f"{record.name} ({record.job}) of {record.submitter}: {record.state}")
    for reason in record.reasons:
        say(f"- {reason}")


def abort(run: RunArgument, kit: KitOption) -> None:
    """Abort a run, or remove it from the queue."""
    from consortium.flare.session import open_session

    with open_session(kit) as session:
        job = session.find(run)
        session.abort(job)
    say(f"{job}: abort requested")


def _find(run: str, kit: Path) -> "Run":
    from consortium.flare.session import open_session
    from consortium.runs.status import describe

    with open_session(kit) as session:
        return describe(session.job(session.find(run)), session.jobs())
