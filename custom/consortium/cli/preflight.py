"""`consortium preflight KIT`: checks whether a kit will run on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from consortium.cli.terminal import terminal
from consortium.core.errors import Incomplete

_STYLE = {"ok": "green", "warning": "bold yellow", "error": "bold red"}


def preflight(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="The folder of a startup kit.")],
) -> None:
    """Check certificate, network, orchestrator, GPUs, disk, data and package for a kit.

    Starts nothing. Exit code 0 if no line is red, 1 if one is.
    """
    from rich.table import Table

    from consortium.client.devices import describe_gpus, driver_version
    from consortium.kits import preflight as checks

    machine = checks.Machine(describe_gpus, driver_version, _check_data)
    results = list(checks.preflight(kit, machine))
    table = Table("check", "", "result", "what to do")
    for check in results:
        table.add_row(check.name, check.level, check.result, check.todo, style=_STYLE[check.level])
    terminal().print(table)
    red = [check.name for check in results if check.level == "error"]
    if red:
        raise Incomplete("not-ready", ", ".join(red), str(kit), "see the table above")


def _check_data(folder: Path) -> tuple[int, int]:
    from consortium.tasks.folders import check_folder

    findings = check_folder(folder)
    errors = sum(finding.severity == "error" for finding in findings)
    return errors, len(findings) - errors
