"""A kit runs once: on a machine by a lock, and on several by telling its copies apart.

A second process would take the first one's place at the orchestrator without a word.
"""

import hashlib
import os
import secrets
from pathlib import Path
from typing import IO

from consortium.core.errors import Refused
from consortium.core.files import lock_file

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


def identify_copy(held: IO[str]) -> str:
    """Which copy of a kit this is: the same at every start, and another one for every other copy.

    Args:
        held: as `hold_kit` returned it.
    """
    held.seek(0)
    token = held.read()
    if not token:
        token = secrets.token_hex(16)
        held.write(token)
        held.flush()
    # A copy of the folder has the token, but in a file of its own.
    return hashlib.sha256(f"{token} {os.fstat(held.fileno()).st_ino}".encode()).hexdigest()
