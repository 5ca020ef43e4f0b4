"""Ensures that a kit runs only once: by a lock on one machine, by an id of each copy on several.

A second process would replace the first at the orchestrator without any message.
"""

import hashlib
import os
import secrets
from pathlib import Path
from typing import IO

from consortium.core.errors import Refused
from consortium.core.files import lock_file

LOCK = ".running"
"""Lock file at the top of a kit. The site's process holds it as long as it runs."""


def hold_kit(kit: Path) -> IO[str]:
    """Locks a kit until the returned file is closed or this process ends.

    Raises:
        Refused: `kit-in-use`, or `no-kit` if the folder does not exist.
    """
    if not kit.is_dir():
        raise Refused("no-kit", "no such folder", str(kit), "name the folder of a startup kit")
    file = lock_file(kit / LOCK)
    if file is None:
        raise Refused(
            "kit-in-use", "this kit is already running on this machine", str(kit), "stop it first"
        )
    return file


def identify_copy(file: IO[str]) -> str:
    """Identifies this copy of a kit: the same at every start, different for every other copy.

    Args:
        file: the locked file that `hold_kit` returned.
    """
    file.seek(0)
    token = file.read()
    if not token:
        token = secrets.token_hex(16)
        file.write(token)
        file.flush()
    # A copy of the folder has the same token, but in another file.
    return hashlib.sha256(f"{token} {os.fstat(file.fileno()).st_ino}".encode()).hexdigest()
