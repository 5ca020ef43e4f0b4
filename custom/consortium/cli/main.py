"""The command `consortium`, which is installed at a hospital.

Each command is a function in its own module. It imports slow packages (torch, monai, nibabel) only
when it is called, so that `consortium --help` answers at once.
"""

from typing import Annotated

import typer

from consortium import __version__
from consortium.cli.check_data import check_data
from consortium.cli.evaluate import evaluate
from consortium.cli.predict import predict
from consortium.cli.preflight import preflight
from consortium.cli.run import DebugOption, run_app
from consortium.cli.runs import abort, explain, runs, status
from consortium.cli.terminal import say
from consortium.cli.verify_kit import verify_kit

app = typer.Typer(name="consortium", add_completion=False)
app.command()(check_data)
app.command()(predict)
app.command()(evaluate)
app.command()(verify_kit)
app.command()(preflight)
for _command in (runs, status, explain, abort):
    app.command()(_command)


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"consortium {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: DebugOption = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Check data and kits, use models and follow runs at one hospital of a consortium."""


def main() -> None:
    """Entry point of the installed command; never returns."""
    run_app(app)
