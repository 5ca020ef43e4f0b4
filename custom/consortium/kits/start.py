"""`python3 -m consortium.kits.start KIT`: the check that a kit's own scripts run before they start.

Ends with 0, or with one sentence on stderr for each thing that is wrong.
"""

import fcntl
import sys
from pathlib import Path
from typing import IO

from consortium.errors import ConsortiumError, Refused
from consortium.kits.verify import verify_kit

LOCK = ".running"
"""File at the top of a kit that the site's process holds for as long as it lives."""


def check_kit(kit: Path) -> None:
    """Looks at a kit before it is started.

    Raises:
        Refused: `kit-in-use`, `bad-kit` with the first finding, or what `verify_kit` raises.
    """
    # A second process would take the first one's place at the orchestrator without a word.
    hold_kit(kit).close()
    findings = verify_kit(kit).findings
    if findings:
        first, more = findings[0], len(findings) - 1
        and_more = f" (and {more} more)" if more else ""
        raise Refused(
            "bad-kit",
            f"{first.code}, {first.detail}{and_more}",
            str(kit / first.file),
            f"run consortium verify-kit {kit} and ask the coordinator",
        )


def hold_kit(kit: Path) -> IO[str]:
    """Holds a kit until the file is closed or this process ends.

    Raises:
        Refused: `kit-in-use`, or `no-kit` where there is no such folder.
    """
    if not kit.is_dir():
        raise Refused("no-kit", "no such folder", str(kit), "give the folder of a startup kit")
    file = (kit / LOCK).open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise Refused(
            "kit-in-use", "this kit runs already on this machine", str(kit), "stop it first"
        ) from None
    return file


def main() -> None:
    """Entry point of the scripts."""
    try:
        check_kit(Path(sys.argv[1]))
    except ConsortiumError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
