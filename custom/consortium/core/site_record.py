"""Files in which a hospital remembers something over all runs; see `Site.home`.

Invariants: one process at a time uses a file, whatever the number of jobs; a file is replaced as a
whole. A damaged file is refused and never started afresh, for it guards what was stated before.
"""

import fcntl
import hashlib
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from consortium.core.errors import EnvironmentProblem
from consortium.core.files import replace_file

_SALT = "salt"


@contextmanager
def open_record(home: Path, name: str) -> Iterator[dict[str, Any]]:
    """Opens one of the hospital's files; what the caller changes is saved when it is done.

    Nothing is saved if the caller raises.

    Args:
        home: folder of what the hospital keeps over all runs.
        name: of the file, without suffix; it may name a folder first.

    Yields:
        The content, with a salt for `fingerprint`.

    Raises:
        EnvironmentProblem: `damaged-record`, `disk-full` or `cannot-write`.
    """
    path = home / f"{name}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = path.with_name(f".{path.name}.lock").open("a")
    except OSError as problem:
        raise EnvironmentProblem(
            "cannot-write", problem.strerror or "cannot be opened", str(path), "check the folder"
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = _read(path)
        content: dict[str, Any] = json.loads(before) if before else {_SALT: secrets.token_hex(16)}
        yield content
        after = json.dumps(content)
        if after != before:
            replace_file(path, lambda partial_path: partial_path.write_text(after, "utf-8"))


def _read(path: Path) -> str:
    try:
        text = path.read_text("utf-8")
        if isinstance(json.loads(text), dict) and _SALT in json.loads(text):
            return text
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, RecursionError):
        pass
    raise EnvironmentProblem(
        "damaged-record",
        "what this hospital keeps over all runs cannot be read",
        str(path),
        "restore the file from a backup; without it nothing tells what was stated before",
    )


def fingerprint(record: dict[str, Any], *parts: str) -> str:
    """Hashes a patient's id or value with the salt of a record, which nobody else knows."""
    text = "\x1f".join([record[_SALT], *parts])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
