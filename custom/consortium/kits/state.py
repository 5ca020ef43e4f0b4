"""The coordinator's secret: the root's key and all certificates, in one file of mode 0600.

With a passphrase the file is sealed: scrypt (RFC 7914; N = 2^17, r = 8, p = 1) derives the key,
Fernet encrypts and authenticates.
"""

import base64
import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from consortium.core.errors import Refused, UsageError
from consortium.core.files import replace_file
from consortium.core.json_files import parse_json, read_json

_N, _R, _P = 2**17, 8, 1
State = dict[str, Any]
"""FLARE's `cert.json`: `root_cert`, `root_pri_key`; `cert` and `pri_key` of each participant."""


def read_state(path: Path, ask: Callable[[], str]) -> State | None:
    """Reads the state of earlier runs; None if there is no file.

    Args:
        path: of the file.
        ask: returns the passphrase; called only if the file is sealed.

    Raises:
        Refused: `wrong-passphrase`.
        UsageError: `bad-state`.
    """
    try:
        content = read_json(path)
        if "sealed" not in content:
            return dict(content)
        salt = base64.b64decode(content["salt"])
        token = content["sealed"].encode()
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise UsageError(
            "bad-state", "not the state of a consortium", str(path), "restore it from a backup"
        ) from None
    try:
        return dict(parse_json(_cipher(ask(), salt).decrypt(token)))
    except InvalidToken:
        raise Refused(
            "wrong-passphrase", "the passphrase does not open the state", str(path), "try again"
        ) from None


def write_state(path: Path, state: State, passphrase: str) -> None:
    """Writes the state whole or not at all; sealed if the passphrase is not empty."""
    content: State = state
    if passphrase:
        salt = secrets.token_bytes(16)
        token = _cipher(passphrase, salt).encrypt(json.dumps(state).encode())
        content = {"salt": base64.b64encode(salt).decode(), "sealed": token.decode()}

    def write(partial: Path) -> None:
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(content) + "\n", encoding="utf-8")

    replace_file(path, write)


def certificates(state: State) -> dict[str, x509.Certificate]:
    """Returns the certificate of each participant."""
    return {
        name: x509.load_pem_x509_certificate(entry["cert"].encode())
        for name, entry in state.items()
        if isinstance(entry, dict)
    }


def _cipher(passphrase: str, salt: bytes) -> Fernet:
    key = Scrypt(salt=salt, length=32, n=_N, r=_R, p=_P).derive(passphrase.encode())
    return Fernet(base64.urlsafe_b64encode(key))
