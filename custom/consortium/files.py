"""Files that are never half-written: each is written beside its place, flushed, then renamed."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from consortium.errors import EnvironmentProblem


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a file beside `path`, then renames it over `path`.

    Whatever goes wrong, what stood at `path` before still stands there.

    Args:
        path: the file to replace or create; its folder is made where it is missing.
        write: given a path in the same folder, writes the whole content there.

    Raises:
        EnvironmentProblem: `disk-full` or `cannot-write`.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(beside)
        with beside.open("rb") as written:
            os.fsync(written.fileno())
        beside.replace(path)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise EnvironmentProblem(
            "disk-full" if full else "cannot-write",
            error.strerror or "cannot be written",
            str(path),
            "free some space and resume" if full else "check the folder's permissions",
        ) from error
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file whole or not at all; see `replace_file`."""
    replace_file(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Writes an indented JSON file whole or not at all; NaN is refused."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
