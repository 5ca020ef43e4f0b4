"""`consortium verify-kit`: checks that a startup kit is as the coordinator made it."""

from pathlib import Path
from typing import Annotated

import typer

from consortium.cli.terminal import say
from consortium.core.errors import Incomplete
from consortium.core.plurals import plural


def verify_kit(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="The folder of a startup kit.")],
    root_sha256: Annotated[
        str,
        typer.Option(
            metavar="HEX", help="The root's fingerprint, from the coordinator by telephone."
        ),
    ] = "",
) -> None:
    """Name every changed, missing or extra file of a startup kit.

    Exit code 0: none. 1: at least one. 3: the kit is not signed.
    """
    from consortium.kits import verify

    report = verify.verify_kit(kit, root_sha256)
    manifest = report.manifest
    say(
        f"{manifest.participant} ({manifest.role}, {manifest.organisation}) in {manifest.project},"
        f" version {manifest.version}, valid until {report.valid_until:%Y-%m-%d}"
    )
    for right in report.further_rights:
        say(f"a right beyond the shipped ones: {right}")
    for finding in report.findings:
        say(f"{finding.code}: {finding.file}: {finding.detail}")
    if report.findings:
        raise Incomplete(
            "bad-kit",
            plural(len(report.findings), "finding"),
            str(kit),
            "do not start it; ask the coordinator for the kit again",
        )
    say(
        f"{plural(len(manifest.files), 'file is', 'files are')} as signed by the root"
        f" {report.root_sha256}"
    )
    if not report.compared:
        say(
            "anyone can make such a root: compare its fingerprint with the one that the coordinator"
            " gives you by telephone (--root-sha256)"
        )
