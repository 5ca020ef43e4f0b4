"""A folder for unencrypted keys, which goes with the process that made it, however that ends.

It is in memory if the machine has memory-backed storage. A second process removes it as soon as the
first one is gone, even by SIGKILL. If both were killed, the next call removes it.
"""

import contextlib
import fcntl
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "consortium-keys-"
_REMOVE = 'read -r _; rm -rf -- "$1"'
"""Waits for the end of its standard input, which the process that made the folder holds open."""


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Creates the folder; nobody but this user can read it."""
    shared = Path("/dev/shm")
    usable = shared.is_dir() and os.access(shared, os.W_OK)
    parent = shared if usable else Path(tempfile.gettempdir())
    _remove_left(parent)
    folder, lock = _create(parent)
    ours, theirs = os.pipe()
    try:
        # Its own session, so that what kills this process and its group leaves it alone.
        watcher = subprocess.Popen(
            ["sh", "-c", _REMOVE, "sh", str(folder)], stdin=ours, cwd="/", start_new_session=True
        )
        try:
            yield folder
        finally:
            shutil.rmtree(folder)
            os.close(theirs)
            watcher.wait()
    finally:
        os.close(ours)
        os.close(lock)


def _create(parent: Path) -> tuple[Path, int]:
    """Creates a folder and locks it for as long as this process lives."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        lock = _lock(folder)
        if lock is not None and folder.exists():
            return folder, lock
        if lock is not None:  # another call took it for a folder that was left
            os.close(lock)


def _remove_left(parent: Path) -> None:
    """Removes the folders of this user's processes that were killed together with the second."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            found = folder.lstat()
            if found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode):
                continue
            lock = _lock(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _lock(folder: Path) -> int | None:
    """Locks a folder; None if it is gone or another process has locked it."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock
