"""The list of a kit's files, signed by the consortium's root.

FLARE signs nothing in a startup kit. Here an in-toto statement lists every shipped file of
`startup/` and `local/` with its SHA-256. It is in a DSSE envelope, signed by the root that signed
the kit's own certificate. Invariants:

* The signature is deterministic (PKCS#1 v1.5) and contains no time, so the same kit has the same
  bytes again.
* A hospital's own files (`OWN_FILES`) are never listed: it may edit them.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

from consortium import __version__
from consortium.core.errors import Refused
from consortium.core.files import write_text
from consortium.core.json_files import parse_json, read_json
from consortium.core.plain_files import read_plain

MANIFEST = "startup/kit.dsse.json"
"""Path of the envelope in a kit."""

SHIPPED = ("startup", "local")
"""The folders of a kit whose files are listed."""

OWN_FILES = ("local/hospital.json", "local/orchestrator.json", "local/authorization.json")
"""Files in which a hospital or the orchestrator's operator makes choices; never listed."""

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
KIT_TYPE = "urn:consortium:startup-kit:1"
MAX_FILE = 16 << 20
"""Bytes that a file of a kit may have; a larger one is not read."""
_SCHEME = "rsa-pkcs1v15-sha256"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The signed content of a kit's list.

    Attributes:
        participant: owner of the kit: FLARE's name of the site, or the admin's.
        role: `server`, `client`, or an admin's role.
        organisation: the participant's.
        project: name of the consortium's project.
        version: version of this package that made the kit.
        files: SHA-256 of each shipped file, by its path in the kit.
    """

    participant: str
    role: str
    organisation: str
    project: str
    version: str
    files: Mapping[str, str]


def shipped_files(kit: Path) -> Iterator[str]:
    """Yields the sorted paths of everything in a kit's shipped folders, links and pipes too.

    A shipped folder that is itself a link is yielded and not followed.
    """
    for folder in SHIPPED:
        if (kit / folder).is_symlink():
            yield folder
            continue
        for path in sorted((kit / folder).rglob("*")):
            name = path.relative_to(kit).as_posix()
            if (path.is_symlink() or not path.is_dir()) and name != MANIFEST:
                yield name


def sign_kit(
    kit: Path, *, participant: str, role: str, organisation: str, project: str, key: RSAPrivateKey
) -> None:
    """Lists the files of a finished kit and signs the list; see `Manifest` for the arguments."""
    files = [name for name in shipped_files(kit) if name not in OWN_FILES]
    statement: dict[str, Any] = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": sha256(kit / name)}} for name in files],
        "predicateType": KIT_TYPE,
        "predicate": {
            "participant": participant,
            "role": role,
            "organisation": organisation,
            "project": project,
            "version": __version__,
        },
    }
    envelope = Envelope(rfc8785.dumps(statement), PAYLOAD_TYPE, {})
    envelope.sign(CryptoSigner(key, _public(key.public_key())))
    write_text(kit / MANIFEST, json.dumps(envelope.to_dict(), indent=2) + "\n")


def read_manifest(kit: Path, root: x509.Certificate) -> Manifest:
    """Reads a kit's list and verifies its signature.

    Args:
        kit: the kit's folder.
        root: certificate of the consortium's root.

    Raises:
        Refused: `no-manifest`, `bad-manifest` or `bad-signature`.
    """
    path = kit / MANIFEST
    try:
        content = read_json(path, MAX_FILE)
    except FileNotFoundError:
        raise Refused(
            "no-manifest", "the kit has no signed list of its files", str(path), _ASK
        ) from None
    except (OSError, ValueError):
        raise _bad(path) from None
    key = root.public_key()
    try:
        envelope = Envelope.from_dict(content)
        if not isinstance(key, RSAPublicKey):
            raise VerificationError
        envelope.verify([_public(key)], 1)
    except VerificationError:
        raise Refused(
            "bad-signature", "the list of files is not signed by the kit's root", str(path), _ASK
        ) from None
    except Exception:  # whatever the file holds, it is no envelope
        raise _bad(path) from None
    try:
        return _parse(parse_json(envelope.payload))
    except (KeyError, TypeError, ValueError):
        raise _bad(path) from None


_ASK = "ask the coordinator for the kit again"


def _bad(path: Path) -> Refused:
    return Refused("bad-manifest", "not a signed list of a kit's files", str(path), _ASK)


def _parse(statement: Any) -> Manifest:
    if (statement["_type"], statement["predicateType"]) != (STATEMENT_TYPE, KIT_TYPE):
        raise ValueError
    predicate = statement["predicate"]
    return Manifest(
        **{key: str(predicate[key]) for key in ("participant", "role", "organisation", "project")},
        version=str(predicate["version"]),
        files={str(file["name"]): str(file["digest"]["sha256"]) for file in statement["subject"]},
    )


def _public(key: RSAPublicKey) -> SSlibKey:
    return SSlibKey.from_crypto(key, scheme=_SCHEME)


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's content, hexadecimal.

    Raises:
        OSError: the file has more than `MAX_FILE` bytes, is no plain file, or cannot be read.
    """
    return hashlib.sha256(read_plain(path, MAX_FILE)).hexdigest()


def fingerprint(root: x509.Certificate) -> str:
    """Returns the SHA-256 of a certificate's DER form, as `openssl x509 -fingerprint` does."""
    from cryptography.hazmat.primitives.hashes import SHA256

    return root.fingerprint(SHA256()).hex()
