"""Atomic files and folders: written under a temporary name, then renamed."""

import errno
import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError

from consortium.core.errors import EnvironmentProblem, Refused

_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO)
_ERROR_NUMBER = re.compile(r"\(os error (\d+)\)")
"""The system's error number in a message of safetensors, whose errors are no `OSError`."""
_SPARE = 1 << 20  # bytes that must be free in addition, for small files


def replace_file(path: Path, write: Callable[[Path], object], *, flush: bool = True) -> None:
    """Replaces a file atomically: `write` fills a temporary file, which is renamed to `path`.

    If anything goes wrong, the previous file stays as it was.

    Args:
        path: the file to replace or create; a missing folder is created.
        write: writes the whole content to the path that it is given, in the same folder.
        flush: force the file to disk. An unflushed file survives the end of any process, but may be
            torn or empty if the machine itself stops.

    Raises:
        EnvironmentProblem: `disk-full` or `cannot-write`.
    """
    partial = _partial_path(path)
    try:
        with clear_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write(partial)
            if flush:
                flush_file(partial)
            partial.replace(path)
            if flush:
                flush_file(path.parent)
    finally:
        with suppress(OSError):
            partial.unlink()


def create_file(path: Path, content: bytes, *, mode: int = 0o666) -> bool:
    """Writes a file atomically, unless there is one; a missing folder is created.

    Args:
        path: the file to create.
        content: all of it.
        mode: rights to it, before those that the process withholds (umask).

    Returns:
        Whether the file was written; of several processes only one gets True.

    Raises:
        EnvironmentProblem: `disk-full` or `cannot-write`.
    """
    partial = _partial_path(path)
    try:
        with clear_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.touch(mode=mode)
            partial.write_bytes(content)
            flush_file(partial)
            try:
                os.link(partial, path)
            except FileExistsError:
                return False
            flush_file(path.parent)
            return True
    finally:
        with suppress(OSError):
            partial.unlink()


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Replaces a folder atomically: the caller fills a temporary one, which is renamed to `path`.

    If anything goes wrong, the temporary folder is removed.

    Args:
        path: the folder to create or replace.

    Yields:
        The empty temporary folder.

    Raises:
        EnvironmentProblem: `disk-full` or `cannot-write`; the previous folder stays as it was.
    """
    partial = _partial_path(path)
    former = partial.with_suffix(".former")
    try:
        with clear_errors(path):
            partial.mkdir(parents=True)
            yield partial
            for file in partial.rglob("*"):
                if file.is_file():
                    flush_file(file)
            if path.exists():
                path.rename(former)
            try:
                partial.rename(path)
            except OSError:
                if former.exists():
                    former.rename(path)
                raise
            flush_file(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


def lock_file(path: Path) -> IO[str] | None:
    """Locks a file until it is closed or this process ends; None if another process holds it."""
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


@contextmanager
def sole_user(folder: Path) -> Iterator[None]:
    """Keeps a second command out of a folder; a missing folder is created.

    Raises:
        Refused: `busy`.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = lock_file(folder / ".lock")
    if lock is None:
        raise Refused(
            "busy", "another command uses this folder", str(folder), "wait until it has ended"
        )
    with lock:
        yield


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file atomically; see `replace_file`."""
    replace_file(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Writes an indented JSON file atomically; refuses NaN."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def _partial_path(path: Path) -> Path:
    # Not the process's number alone, which repeats after a restart in a container.
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


def flush_file(path: Path) -> None:
    """Forces a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """Turns errors of writing a file, the system's and those of safetensors, into readable ones.

    Raises:
        EnvironmentProblem: `disk-full` or `cannot-write`.
    """
    try:
        yield
    except OSError as error:
        raise _unwritable(error.errno, error.strerror, path) from error
    except SafetensorError as error:
        found = _ERROR_NUMBER.search(str(error))
        if found is None:
            raise
        raise _unwritable(int(found[1]), os.strerror(int(found[1])), path) from error


def as_readable(error: Exception) -> Exception:
    """Returns a disk's error as one that people read, and every other error as it is."""
    if isinstance(error, OSError) and error.errno in (*_FULL, *_UNWRITABLE):
        return _unwritable(error.errno, error.strerror, Path(str(error.filename or "")))
    return error


def require_room(folder: Path) -> None:
    """Checks that a folder takes one more file as large as the largest in it.

    Raises:
        EnvironmentProblem: `disk-full` or `cannot-write`.
    """
    replace_file(folder / ".room", lambda partial: partial.write_bytes(bytes(4096)))
    with clear_errors(folder):
        (folder / ".room").unlink()
        largest = max((file.stat().st_size for file in folder.iterdir()), default=0)
        if shutil.disk_usage(folder).free < largest + _SPARE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _unwritable(number: int | None, reason: str | None, path: Path) -> EnvironmentProblem:
    full = number in _FULL
    return EnvironmentProblem(
        "disk-full" if full else "cannot-write",
        reason or "cannot be written",
        str(path),
        "free some space and try again" if full else "check the folder's permissions",
    )
