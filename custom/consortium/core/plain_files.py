"""Opens files that other people or programs have put there.

Only a plain file is opened, or a link to one: reading a pipe or a device could wait for ever. Small
files are read up to a limit, so that a sparse or endless one does not fill the memory.
"""

import errno
import os
import stat
from pathlib import Path

MAX_BYTES = 64 << 20
"""Limit of a file that a person or program writes as text, such as JSON or a certificate."""


def require_plain(path: Path) -> None:
    """Refuses a path that leads to a pipe, a socket, a device or a folder.

    Raises:
        OSError: it does, or the path cannot be followed.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a plain file", str(path))


def read_plain(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Reads a plain file of at most `limit` bytes.

    Raises:
        OSError: it is larger, is no plain file, or cannot be read.
    """
    require_plain(path)
    # The path may lead elsewhere by now. Without O_NONBLOCK, opening a pipe would wait.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a plain file", str(path))
        content = b"" if found.st_size > limit else file.read(limit + 1)
    if found.st_size > limit or len(content) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit} bytes", str(path))
    return content
