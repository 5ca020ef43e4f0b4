"""`scripts/federation up|status|down`: a real federation on this machine, for trying and tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from consortium.cli.progress import stderr_console
from consortium.cli.run import DebugOption, run_app
from consortium.core.errors import Incomplete
from consortium.runs import federation
from consortium.runs.federation import Machine

app = typer.Typer(name="federation", add_completion=False, no_args_is_help=True)

WorkspaceOption = Annotated[Path, typer.Option(metavar="DIR", help="Of the federation.")]


@app.callback()
def _options(debug: DebugOption = False) -> None:
    """Run orchestrator and hospitals on this machine, each a process with a kit of its own."""


@app.command()
def up(
    workspace: WorkspaceOption,
    hospitals: Annotated[
        int | None, typer.Option(min=1, max=100, help="How many; all of --data, or four.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Holds one folder a hospital.")
    ] = None,
    smallest_group: Annotated[
        int, typer.Option(help="A metric over fewer patients is not sent by a hospital.", min=1)
    ] = 5,
) -> None:
    """Provision where nothing is, and start what does not run."""
    console = stderr_console()
    machines = federation.up(
        workspace,
        hospitals=hospitals,
        data=data,
        own={"smallest_group": smallest_group},
        report=console.print,
    )
    _print(machines)
    kit = federation.admin_kit(workspace, federation.RESEARCHER)
    print(f"submit a job with: nvflare job submit -j JOB --startup-kit {kit / 'startup'}")


@app.command()
def status(workspace: WorkspaceOption) -> None:
    """Show what runs. Ends with 1 if something does not."""
    machines = federation.status(workspace)
    _print(machines)
    missing = [machine.name for machine in machines if not machine.connected]
    if missing:
        raise Incomplete(
            "not-up", f"{', '.join(missing)} not connected", str(workspace), "run up again"
        )


@app.command()
def down(workspace: WorkspaceOption) -> None:
    """End every process of the federation; what it left stays."""
    ended = federation.down(workspace)
    print(f"ended: {', '.join(ended) or 'nothing ran'}")


def _print(machines: Sequence[Machine]) -> None:
    table = Table("machine", "process", "connected")
    for machine in machines:
        table.add_row(
            machine.name, str(machine.process or "-"), "yes" if machine.connected else "no"
        )
    Console(highlight=False).print(table)


if __name__ == "__main__":
    run_app(app)
