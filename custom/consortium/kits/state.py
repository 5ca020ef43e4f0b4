"""The coordinator's secret: the root's key and all certificates, in one file of mode 0600.

Where a passphrase is given the file is sealed: scrypt (RFC 7914; N = 2^17, r = 8, p = 1) makes the
key, Fernet encrypts and authenticates.
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

_N, _R, _P = 2**17, 8, 1
State = dict[str, Any]
"""FLARE's `cert.json`: `root_cert`, `root_pri_key`; `cert` and `pri_key` of each participant."""


def read_state(path: Path, ask: Callable[[], str]) -> State | None:
    """The state of earlier runs, None where there is none.

    Args:
        path: of the file.
        ask: gives the passphrase, called where the file is sealed.

    Raises:
        Refused: `wrong-passphrase`.
        UsageError: `bad-state`.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if "sealed" not in content:
            return dict(content)
        salt = base64.b64decode(content["salt"])
        token = content["sealed"].encode()
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise UsageError(
            "bad-state", "this is no state of a consortium", str(path), "restore it from a copy"
        ) from None
    try:
        return dict(json.loads(_cipher(ask(), salt).decrypt(token)))
    except InvalidToken:
        raise Refused(
            "wrong-passphrase", "the passphrase does not open the state", str(path), "try again"
        ) from None


def write_state(path: Path, state: State, passphrase: str) -> None:
    """Writes the state whole or not at all, sealed where the passphrase is not empty."""
    content: State = state
    if passphrase:
        salt = secrets.token_bytes(16)
        token = _cipher(passphrase, salt).encrypt(json.dumps(state).encode())
        content = {"salt": base64.b64encode(salt).decode(), "sealed": token.decode()}

    def write(beside: Path) -> None:
        beside.touch(mode=0o600)
        beside.write_text(json.dumps(content) + "\n", encoding="utf-8")

    replace_file(path, write)


def certificates(state: State) -> dict[str, x509.Certificate]:
    """Each participant's certificate."""
    return {
        name: x509.load_pem_x509_certificate(said["cert"].encode())
        for name, said in state.items()
        if isinstance(said, dict)
    }


def _cipher(passphrase: str, salt: bytes) -> Fernet:
    key = Scrypt(salt=salt, length=32, n=_N, r=_R, p=_P).derive(passphrase.encode())
    return Fernet(base64.urlsafe_b64encode(key))
