"""A kit runs once on a machine.

A second process would take the first one's place at the orchestrator without a word.
"""

from pathlib import Path
from typing import IO

from consortium.errors import Refused
from consortium.files import lock_file

LOCK = ".running"
"""File at the top of a kit that the site's process holds for as long as it lives."""


def hold_kit(kit: Path) -> IO[str]:
    """Holds a kit until the file is closed or this process ends.

    Raises:
        Refused: `kit-in-use`, or `no-kit` where there is no such folder.
    """
    if not kit.is_dir():
        raise Refused("no-kit", "no such folder", str(kit), "give the folder of a startup kit")
    file = lock_file(kit / LOCK)
    if file is None:
        raise Refused(
            "kit-in-use", "this kit runs already on this machine", str(kit), "stop it first"
        )
    return file
