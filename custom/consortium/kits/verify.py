"""Is a startup kit what the coordinator made, and may it be started?

Reads the kit alone: no FLARE, no network. A kit that was changed on its way together with its root
certificate still verifies against itself; only the root's fingerprint, told to the hospital by
another way (telephone, letter) and compared here, makes the check a proof.
"""

import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID

from consortium.core.errors import Refused
from consortium.kits.hospital import read_hospital
from consortium.kits.manifest import (
    MANIFEST,
    OWN_FILES,
    Manifest,
    fingerprint,
    read_manifest,
    sha256,
    shipped_files,
)

ROOT = "startup/rootCA.pem"


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a file of a kit.

    Attributes:
        code: `changed`, `missing`, `extra`, `link`, `open-key`, `wrong-certificate`, `wrong-key`,
            `other-root` or `expired`.
        file: its path in the kit.
        detail: in words.
    """

    code: str
    file: str
    detail: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look at a kit found.

    Attributes:
        manifest: what the root says of the kit.
        root_sha256: fingerprint of the root certificate in the kit.
        compared: whether the fingerprint was compared with one that came another way.
        valid_until: when the participant's certificate ends.
        findings: empty for a kit that may be started.
    """

    manifest: Manifest
    root_sha256: str
    compared: bool
    valid_until: datetime
    findings: list[Finding] = field(default_factory=list)


def verify_kit(kit: Path, root_sha256: str = "") -> Verdict:
    """Checks a kit's files, certificates and keys.

    Args:
        kit: the kit's folder.
        root_sha256: the root's fingerprint as it came another way, with or without colons; where it
            is empty, that in the hospital's own `local/hospital.json` counts, if there is one.

    Raises:
        Refused: `no-kit`, `no-manifest`, `bad-manifest` or `bad-signature`.
        UsageError: the hospital's own file is wrong.
    """
    root = _certificate(kit / ROOT)
    manifest = read_manifest(kit, root)
    own = _certificate(kit / _own_name(manifest, "crt"))
    wanted = (root_sha256 or read_hospital(kit).root_sha256 or "").replace(":", "").lower()
    findings = [*_files(kit, manifest), *_identity(kit, manifest, own, root)]
    if wanted and wanted != fingerprint(root):
        findings.append(Finding("other-root", ROOT, f"its SHA-256 is {fingerprint(root)}"))
    return Verdict(manifest, fingerprint(root), bool(wanted), own.not_valid_after_utc, findings)


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        raise Refused(
            "no-kit", "no readable certificate", str(path), "give the folder of a startup kit"
        ) from None


def _own_name(manifest: Manifest, suffix: str) -> str:
    return f"startup/{'server' if manifest.role == 'server' else 'client'}.{suffix}"


def _files(kit: Path, manifest: Manifest) -> list[Finding]:
    present = set(shipped_files(kit))
    found = [
        Finding("missing", name, "the coordinator's list has it")
        for name in sorted(set(manifest.files) - present)
    ]
    for name in sorted(present | {MANIFEST}):
        path = kit / name
        if path.is_symlink() or not path.is_file():
            found.append(Finding("link", name, "not a plain file"))
        elif name in manifest.files and sha256(path) != manifest.files[name]:
            found.append(Finding("changed", name, "not as the coordinator signed it"))
        elif name not in manifest.files and name not in OWN_FILES and name != MANIFEST:
            found.append(Finding("extra", name, "the coordinator's list has no such file"))
        elif name.endswith(".key") and stat.S_IMODE(path.stat().st_mode) & 0o077:
            found.append(Finding("open-key", name, "others may read it; chmod 600"))
    return found


def _identity(
    kit: Path, manifest: Manifest, own: x509.Certificate, root: x509.Certificate
) -> list[Finding]:
    certificate, key = _own_name(manifest, "crt"), _own_name(manifest, "key")
    found = []
    try:
        own.verify_directly_issued_by(root)
    except (InvalidSignature, ValueError, TypeError):
        found.append(Finding("wrong-certificate", certificate, "not signed by the kit's root"))
    names = [name.value for name in own.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [manifest.participant]:
        told = f"it belongs to {', '.join(map(str, names))} and the kit to {manifest.participant}"
        found.append(Finding("wrong-certificate", certificate, told))
    try:
        # That its numbers fit each other is not tested, which takes longer than all the rest: its
        # bytes are in the signed list.
        private = load_pem_private_key(
            (kit / key).read_bytes(), None, unsafe_skip_rsa_key_validation=True
        )
        if private.public_key() != own.public_key():
            raise ValueError
    except (OSError, ValueError, TypeError):
        found.append(Finding("wrong-key", key, "not the certificate's key"))
    now = datetime.now(UTC)
    for name, held in ((certificate, own), (ROOT, root)):
        if now > held.not_valid_after_utc:
            ended = f"{held.not_valid_after_utc:%Y-%m-%d}"
            found.append(Finding("expired", name, f"it ended on {ended}; ask for a new kit"))
        elif now < held.not_valid_before_utc:
            begins = f"{held.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
            found.append(Finding("expired", name, f"it begins on {begins}; is the clock right?"))
    return found
