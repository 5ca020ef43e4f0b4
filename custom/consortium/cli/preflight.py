"""`consortium preflight KIT`: will this kit run on this machine?"""

from pathlib import Path
from typing import Annotated

import typer

from consortium.core.errors import Incomplete

_STYLE = {"ok": "green", "warning": "bold yellow", "error": "bold red"}


def preflight(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="The folder of a startup kit.")],
) -> None:
    """Check certificate, network, orchestrator, GPUs, disk, data and package for a kit.

    Nothing is started. Ends with 0 if no line is red, with 1 if one is.
    """
    from rich.console import Console
    from rich.table import Table

    from consortium.client.devices import describe_gpus, driver_version
    from consortium.kits import preflight as checks

    machine = checks.Machine(describe_gpus, driver_version, _check_data)
    found = list(checks.preflight(kit, machine))
    table = Table("check", "", "found", "what to do")
    for check in found:
        table.add_row(check.what, check.level, check.found, check.todo, style=_STYLE[check.level])
    Console(highlight=False).print(table)
    red = [check.what for check in found if check.level == "error"]
    if red:
        raise Incomplete("not-ready", ", ".join(red), str(kit), "see the table above")


def _check_data(folder: Path) -> tuple[int, int]:
    from consortium.tasks.folders import check_folder

    findings = check_folder(folder)
    errors = sum(finding.severity == "error" for finding in findings)
    return errors, len(findings) - errors
