"""`scripts/federation up|status|down`: a real federation on this machine, for trials and tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from consortium.cli.progress import stderr_console
from consortium.cli.run import DebugOption, SmallestTraining, run_app
from consortium.cli.terminal import say, terminal
from consortium.core.errors import Incomplete
from consortium.core.site_policy import simulated_privacy
from consortium.runs import federation
from consortium.runs.federation import Machine

app = typer.Typer(name="federation", add_completion=False, no_args_is_help=True)

WorkspaceOption = Annotated[Path, typer.Option(metavar="DIR", help="The federation's folder.")]


@app.callback()
def _options(debug: DebugOption = False) -> None:
    """Run the orchestrator and the hospitals on this machine, each from its own kit."""


@app.command()
def up(
    workspace: WorkspaceOption,
    hospitals: Annotated[
        int | None,
        typer.Option(
            min=1, max=100, help="Number of hospitals; by default all of --data, or four."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder with one folder for each hospital.")
    ] = None,
    smallest_group: Annotated[
        int, typer.Option(help="Hospitals send no metric over fewer patients.", min=1)
    ] = 5,
    smallest_training: SmallestTraining = 5,
) -> None:
    """Provision the kits if there are none, and start what is not running."""
    console = stderr_console()
    machines = federation.up(
        workspace,
        hospitals=hospitals,
        data=data,
        own={
            "smallest_group": smallest_group,
            "privacy": simulated_privacy(smallest_training).model_dump(),
        },
        report=console.print,
    )
    _print(machines)
    kit = federation.admin_kit(workspace, federation.RESEARCHER)
    say(f"submit a job with: nvflare job submit -j JOB --startup-kit {kit / 'startup'}")


@app.command()
def status(workspace: WorkspaceOption) -> None:
    """Show the processes. Exit code 1 if one is not connected."""
    machines = federation.status(workspace)
    _print(machines)
    missing = [machine.name for machine in machines if not machine.connected]
    if missing:
        raise Incomplete(
            "not-up", f"{', '.join(missing)} not connected", str(workspace), "run up again"
        )


@app.command()
def down(workspace: WorkspaceOption) -> None:
    """Stop every process of the federation; its files stay."""
    stopped = federation.down(workspace)
    say(f"stopped: {', '.join(stopped) or 'nothing was running'}")


def _print(machines: Sequence[Machine]) -> None:
    table = Table("machine", "process", "connected")
    for machine in machines:
        table.add_row(
            machine.name, str(machine.process or "-"), "yes" if machine.connected else "no"
        )
    terminal().print(table)


if __name__ == "__main__":
    run_app(app)
