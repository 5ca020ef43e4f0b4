"""Files and folders that are never half-written: filled beside their place, then renamed."""

import errno
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from consortium.core.errors import EnvironmentProblem, Refused


def replace_file(path: Path, write: Callable[[Path], object], *, flush: bool = True) -> None:
    """Lets `write` fill a file beside `path`, then renames it over `path`.

    Whatever goes wrong, what stood at `path` before still stands there.

    Args:
        path: the file to replace or create; its folder is made where it is missing.
        write: given a path in the same folder, writes the whole content there.
        flush: bring it to the disk. A file that is not flushed survives the end of any process, and
            may be torn or empty where the machine itself stops.

    Raises:
        EnvironmentProblem: `disk-full` or `cannot-write`.
    """
    beside = _beside(path)
    try:
        with _told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write(beside)
            if flush:
                flush_file(beside)
            beside.replace(path)
            if flush:
                flush_file(path.parent)
    finally:
        with suppress(OSError):
            beside.unlink()


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Lends a folder beside `path`, which becomes `path` if nothing goes wrong, else vanishes.

    Args:
        path: the folder to create or replace.

    Yields:
        An empty folder.

    Raises:
        EnvironmentProblem: `disk-full` or `cannot-write`; a folder that was there stands.
    """
    beside = _beside(path)
    former = beside.with_suffix(".former")
    try:
        with _told(path):
            beside.mkdir(parents=True)
            yield beside
            for file in beside.rglob("*"):
                if file.is_file():
                    flush_file(file)
            if path.exists():
                path.rename(former)
            try:
                beside.rename(path)
            except OSError:
                if former.exists():
                    former.rename(path)
                raise
            flush_file(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


def lock_file(path: Path) -> IO[str] | None:
    """Locks a file until it is closed or this process ends; None where another process has it."""
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


@contextmanager
def sole_user(folder: Path) -> Iterator[None]:
    """Keeps a second command out of a folder, which is made where it is missing.

    Raises:
        Refused: `busy`.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = lock_file(folder / ".lock")
    if lock is None:
        raise Refused("busy", "another command works here", str(folder), "wait for its end")
    with lock:
        yield


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file whole or not at all; see `replace_file`."""
    replace_file(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Writes an indented JSON file whole or not at all; NaN is refused."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def _beside(path: Path) -> Path:
    # Not the process's number alone, which comes again after a restart in a container.
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


def flush_file(path: Path) -> None:
    """Brings a file, or the names in a folder, to the disk."""
    written = os.open(path, os.O_RDONLY)
    try:
        os.fsync(written)
    finally:
        os.close(written)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise EnvironmentProblem(
            "disk-full" if full else "cannot-write",
            error.strerror or "cannot be written",
            str(path),
            "free some space and go on" if full else "check the folder's permissions",
        ) from error
