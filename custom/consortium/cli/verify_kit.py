"""`consortium verify-kit`: is this startup kit what the coordinator made?"""

from pathlib import Path
from typing import Annotated

import typer

from consortium.core.errors import Incomplete


def verify_kit(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="The folder of a startup kit.")],
    root_sha256: Annotated[
        str,
        typer.Option(
            metavar="HEX", help="The root's fingerprint, as the coordinator told it by telephone."
        ),
    ] = "",
) -> None:
    """Name every changed, missing or extra file of a startup kit.

    Ends with 0 if there is none, with 1 if there is, and with 3 if the kit is not signed at all.
    """
    from consortium.kits import verify

    verdict = verify.verify_kit(kit, root_sha256)
    said = verdict.manifest
    print(
        f"{said.participant} ({said.role}, {said.organisation}) in {said.project},"
        f" version {said.version}, valid until {verdict.valid_until:%Y-%m-%d}"
    )
    for finding in verdict.findings:
        print(f"{finding.code}: {finding.file}: {finding.detail}")
    if verdict.findings:
        raise Incomplete(
            "bad-kit",
            f"{len(verdict.findings)} findings",
            str(kit),
            "do not start it, and ask the coordinator for the kit again",
        )
    print(f"{len(said.files)} files are as the root {verdict.root_sha256} signed them")
    if not verdict.compared:
        print(
            "whose root that is, only its fingerprint tells: compare it with what the coordinator"
            " tells you by telephone (--root-sha256)"
        )
