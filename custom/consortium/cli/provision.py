"""`scripts/provision create|add|status`: makes signed startup kits from the project file."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from consortium.cli.run import DebugOption, run_app
from consortium.cli.terminal import terminal
from consortium.core.errors import Incomplete, UsageError
from consortium.membership.provisioning import KITS, ProvisioningResult
from consortium.membership.provisioning import add as add_participant
from consortium.membership.provisioning import create as create_kits
from consortium.membership.provisioning import status as kit_status

PASSPHRASE = "CONSORTIUM_PASSPHRASE"
"""Environment variable with the passphrase, instead of the prompt."""

_SOON = 60  # days

app = typer.Typer(name="provision", add_completion=False, no_args_is_help=True)
adding = typer.Typer(no_args_is_help=True)
app.add_typer(adding, name="add", help="Add one participant; every other kit stays as it is.")

ProjectOption = Annotated[Path, typer.Option("--project", metavar="FILE", help="The project file.")]
OutOption = Annotated[
    Path, typer.Option(metavar="DIR", help="The coordinator's folder: kits/ and the state.")
]
SealOption = Annotated[
    bool,
    typer.Option(
        "--passphrase", help=f"Seal the state with a passphrase, from {PASSPHRASE} or a prompt."
    ),
]
OrganisationOption = Annotated[str, typer.Option("--org", help="Its organisation.")]
DEFAULT_PROJECT = Path("provisioning/project.yml")


@app.callback()
def _options(debug: DebugOption = False) -> None:
    """Make signed startup kits from the project file."""


@app.command()
def create(
    out: OutOption,
    project: ProjectOption = DEFAULT_PROJECT,
    passphrase: SealOption = False,
) -> None:
    """Make a signed kit for every participant; a rerun makes only missing or changed kits."""
    sealing = _ask(confirm=True) if passphrase else ""
    _print(create_kits(project, out, passphrase=sealing, ask=_ask), out)


@adding.command("hospital")
def add_hospital(
    name: Annotated[str, typer.Argument(help="Its name in jobs and reports.")],
    out: OutOption,
    org: OrganisationOption,
    project: ProjectOption = DEFAULT_PROJECT,
) -> None:
    """Add a hospital."""
    _add(project, out, {"name": name, "type": "client", "org": org})


@adding.command("admin")
def add_admin(
    name: Annotated[str, typer.Argument(help="An e-mail address.")],
    out: OutOption,
    org: OrganisationOption,
    role: Annotated[str, typer.Option(help="project_admin, org_admin, lead or member.")],
    project: ProjectOption = DEFAULT_PROJECT,
) -> None:
    """Add a person."""
    _add(project, out, {"name": name, "type": "admin", "org": org, "role": role})


@app.command()
def status(out: OutOption) -> None:
    """Show every certificate with its remaining days.

    Exit code 1 if one has ended.
    """
    certificates = kit_status(out)
    table = _table("valid until")
    table.add_column("days left", justify="right")
    for issued in certificates:
        days = issued.days_left()
        style = "bold red" if days < 0 else "yellow" if days < _SOON else ""
        owner = (issued.participant, issued.role, issued.organisation)
        table.add_row(*owner, f"{issued.valid_until:%Y-%m-%d}", str(days), style=style)
    terminal().print(table)
    ended = [issued.participant for issued in certificates if issued.days_left() < 0]
    if ended:
        raise Incomplete(
            "expired",
            f"certificates that have ended: {', '.join(ended)}",
            str(out),
            "provision into another folder",
        )


def _add(project: Path, out: Path, entry: dict[str, str]) -> None:
    _print(add_participant(project, out, entry, ask=_ask), out)


def _ask(confirm: bool = False) -> str:
    given = os.environ.get(PASSPHRASE, "")
    if given:
        return given
    if not sys.stdin.isatty():
        raise UsageError(
            "no-passphrase", "the state is sealed with a passphrase", PASSPHRASE, "set it"
        )
    return str(typer.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True))


def _table(*columns: str) -> Table:
    table = Table()
    for title in ("participant", "role", "organisation"):
        table.add_column(title, overflow="fold")
    for title in columns:
        table.add_column(title, no_wrap=True)
    return table


def _print(result: ProvisioningResult, out: Path) -> None:
    console = terminal()
    table = _table("kit", "valid until")
    for kit in result.kits:
        owner = kit.participant
        table.add_row(
            owner.name, owner.certified_role, owner.org, kit.made, f"{kit.valid_until:%Y-%m-%d}"
        )
    console.print(table)
    for note in result.notes:
        console.print(f"note: {note}", soft_wrap=True)
    console.print(f"kits: {out / KITS}/PARTICIPANT", soft_wrap=True)
    sealed = "sealed with your passphrase" if result.sealed else "not sealed; --passphrase seals it"
    console.print(f"state, with the root's key: {out / 'state.json'} ({sealed})", soft_wrap=True)
    console.print(
        "fingerprint of the root; give it to every participant by telephone or letter:",
        soft_wrap=True,
    )
    console.print(f"  {result.root_sha256}", soft_wrap=True)


if __name__ == "__main__":
    run_app(app)
