"""`consortium runs|status|explain|abort`: what runs at the orchestrator, what waits, and why."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from consortium.runs.status import Run

KitOption = Annotated[Path, typer.Option("--kit", metavar="DIR", help="Your admin kit.")]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="The job's id, or as much of it as is clear.")
]


def runs(kit: KitOption) -> None:
    """List the runs, newest first."""
    from rich.console import Console
    from rich.table import Table

    from consortium.flare.session import open_session
    from consortium.runs.status import describe

    with open_session(kit) as session:
        found = [describe(record) for record in session.jobs()]
    table = Table("run")
    for title in ("job", "state", "submitted (UTC)", "took", "by"):
        table.add_column(title, overflow="fold")
    for run in found:
        table.add_row(run.job[:8], run.name, run.state, run.submitted, run.duration, run.submitter)
    Console(highlight=False).print(table if found else "no job was submitted yet")


def status(run: RunArgument, kit: KitOption) -> None:
    """Say how a run stands, in a line."""
    found = _find(run, kit)
    print(f"{found.job} {found.state}" + (f" after {found.duration}" if found.duration else ""))


def explain(run: RunArgument, kit: KitOption) -> None:
    """Say why a run waits, who did not take part, and why it ended."""
    found = _find(run, kit)
    print(f"{found.name} ({found.job}) of {found.submitter}: {found.state}")
    for reason in found.reasons:
        print(f"- {reason}")


def abort(run: RunArgument, kit: KitOption) -> None:
    """End a run, or take it out of the queue."""
    from consortium.flare.session import open_session

    with open_session(kit) as session:
        job = session.find(run)
        session.abort(job)
    print(f"{job} is told to end")


def _find(run: str, kit: Path) -> "Run":
    from consortium.flare.session import open_session
    from consortium.runs.status import describe

    with open_session(kit) as session:
        return describe(session.job(session.find(run)), session.jobs())
