"""The hospital's secret, from which the order of its batches is drawn.

Two jobs that differ by one step, with the same batches otherwise, differ by that step's patients.
Nobody can make two jobs share their batches without the secret. It never leaves the hospital, in no
message, log or answer.
"""

import secrets
from pathlib import Path

from consortium.core.errors import EnvironmentProblem
from consortium.core.files import create_file

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
        create_file(path, secrets.token_bytes(_BYTES), mode=0o600)
    try:
        secret = path.read_bytes()
    except OSError as error:
        raise _bad_secret(path, error.strerror or "cannot be read") from None
    if len(secret) != _BYTES:
        raise _bad_secret(path, f"it has {len(secret)} bytes, not {_BYTES}")
    return secret


def _bad_secret(path: Path, what: str) -> EnvironmentProblem:
    todo = "restore it from a backup; a new one lets nobody subtract later jobs, but ends resuming"
    return EnvironmentProblem("bad-secret", what, str(path), todo)
