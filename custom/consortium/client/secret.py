"""The hospital's secret, from which the order of its batches is drawn.

Two jobs that differ by one step, with the same batches otherwise, differ by that step's patients.
Nobody can make two jobs share their batches without the secret. It never leaves the hospital, in no
message, log or answer.
"""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from consortium.core.errors import EnvironmentProblem
from consortium.core.files import replace_file

SECRET = "secret"
"""File in the folder for what a hospital keeps over all runs (`Site.home`)."""
_BYTES = 32


def read_secret(home: Path) -> bytes:
    """Reads the hospital's secret; draws it at the first call. Several processes may call at once.

    Raises:
        EnvironmentProblem: `bad-secret` if the file is damaged, `disk-full` or `cannot-write`.
    """
    path = home / SECRET
    if not path.exists():
        _draw_secret(path)
    try:
        secret = path.read_bytes()
    except OSError as error:
        raise _bad_secret(path, error.strerror or "cannot be read") from None
    if len(secret) != _BYTES:
        raise _bad_secret(path, f"it has {len(secret)} bytes, not {_BYTES}")
    return secret


def _draw_secret(path: Path) -> None:
    """Writes a fresh secret, unless another process was faster."""
    drawn = path.with_name(f".{SECRET}.{secrets.token_hex(4)}")

    def write(partial: Path) -> None:
        partial.touch(mode=0o600)
        partial.write_bytes(secrets.token_bytes(_BYTES))

    replace_file(drawn, write)
    try:
        with suppress(FileExistsError):
            os.link(drawn, path)  # unlike a renaming, it replaces no secret
    except OSError as error:
        raise EnvironmentProblem(
            "cannot-write", error.strerror or "cannot be written", str(path), "check the folder"
        ) from error
    finally:
        drawn.unlink()


def _bad_secret(path: Path, what: str) -> EnvironmentProblem:
    todo = "restore it from a backup; a new one lets nobody subtract later jobs, but ends resuming"
    return EnvironmentProblem("bad-secret", what, str(path), todo)
