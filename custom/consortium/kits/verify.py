"""Checks that a startup kit is as the coordinator made it and may be started.

Reads only the kit: no FLARE, no network. A kit that was forged together with its root certificate
still verifies against itself. The check proves the kit only if the root's fingerprint is compared
too, which the hospital received another way (telephone, letter).
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
from consortium.core.plain_files import read_plain
from consortium.kits.hospital import HOSPITAL, read_hospital
from consortium.kits.manifest import (
    MANIFEST,
    MAX_FILE,
    OWN_FILES,
    SHIPPED,
    Manifest,
    fingerprint,
    read_manifest,
    sha256,
    shipped_files,
)
from consortium.kits.rights import POLICY, further_rights

ROOT = "startup/rootCA.pem"


@dataclass(frozen=True, slots=True)
class KitFinding:
    """One fault of a file of a kit.

    Attributes:
        code: `changed`, `missing`, `extra`, `link`, `too-large`, `open-key`, `wrong-certificate`,
            `wrong-key`, `other-root`, `expired` or `further-right`.
        file: its path in the kit.
        detail: the fault in words.
    """

    code: str
    file: str
    detail: str


@dataclass(frozen=True, slots=True)
class KitReport:
    """Result of checking a kit.

    Attributes:
        manifest: the signed list of the kit's files.
        root_sha256: fingerprint of the root certificate in the kit.
        compared: whether the fingerprint was compared with one that came another way.
        valid_until: end of the participant's certificate.
        further_rights: rights in the hospital's own policy beyond the shipped ones, in words.
        findings: empty if the kit may be started.
    """

    manifest: Manifest
    root_sha256: str
    compared: bool
    valid_until: datetime
    further_rights: list[str] = field(default_factory=list)
    findings: list[KitFinding] = field(default_factory=list)


def verify_kit(kit: Path, root_sha256: str = "") -> KitReport:
    """Checks a kit's files, certificates and keys.

    Args:
        kit: the kit's folder.
        root_sha256: the root's fingerprint as it came another way, with or without colons. If it is
            empty, the one in the hospital's own `local/hospital.json` is used, if there is one.

    Raises:
        Refused: `no-kit`, `no-manifest`, `bad-manifest` or `bad-signature`.
        UsageError: a file of the hospital's own is wrong.
    """
    root = _certificate(kit / ROOT)
    manifest = read_manifest(kit, root)
    own = _certificate(kit / _own_name(manifest, "crt"))
    choices = read_hospital(kit)
    expected = (root_sha256 or choices.root_sha256 or "").replace(":", "").lower()
    findings = [*_check_files(kit, manifest), *_check_identity(kit, manifest, own, root)]
    if expected and expected != fingerprint(root):
        findings.append(KitFinding("other-root", ROOT, f"its SHA-256 is {fingerprint(root)}"))
    rights = further_rights(kit) if manifest.role == "client" else []
    findings += [
        KitFinding("further-right", POLICY, f"{right} (not among further_rights of {HOSPITAL})")
        for right in rights
        if right not in choices.further_rights
    ]
    valid_until = own.not_valid_after_utc
    return KitReport(manifest, fingerprint(root), bool(expected), valid_until, rights, findings)


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(read_plain(path, MAX_FILE))
    except (OSError, ValueError):
        raise Refused(
            "no-kit", "no readable certificate", str(path), "name the folder of a startup kit"
        ) from None


def _own_name(manifest: Manifest, suffix: str) -> str:
    return f"startup/{'server' if manifest.role == 'server' else 'client'}.{suffix}"


def _check_files(kit: Path, manifest: Manifest) -> list[KitFinding]:
    present = set(shipped_files(kit))
    findings = _check_folders(kit, manifest)
    for name in sorted(present | {MANIFEST}):
        path = kit / name
        if path.is_symlink() or not path.is_file():
            findings.append(KitFinding("link", name, "not a plain file"))
        elif path.stat().st_size > MAX_FILE:
            findings.append(KitFinding("too-large", name, f"more than {MAX_FILE >> 20} MiB"))
        elif name in manifest.files and sha256(path) != manifest.files[name]:
            findings.append(KitFinding("changed", name, "differs from the file that was signed"))
        elif name not in manifest.files and name not in OWN_FILES and name != MANIFEST:
            findings.append(KitFinding("extra", name, "not in the coordinator's list"))
        elif name.endswith(".key") and stat.S_IMODE(path.stat().st_mode) & 0o077:
            findings.append(KitFinding("open-key", name, "other accounts can read it; chmod 600"))
    return findings + [
        KitFinding("missing", name, "in the coordinator's list, but not in the kit")
        for name in sorted(set(manifest.files) - present)
    ]


def _check_folders(kit: Path, manifest: Manifest) -> list[KitFinding]:
    """Names folders without a listed file: FLARE imports code from one, `local/custom`."""
    known = {parent.as_posix() for name in manifest.files for parent in Path(name).parents}
    return [
        KitFinding("extra", name, "a folder that is not in the coordinator's list")
        for folder in SHIPPED
        if not (kit / folder).is_symlink()
        for path in sorted((kit / folder).rglob("*"))
        if path.is_dir() and not path.is_symlink()
        if (name := path.relative_to(kit).as_posix()) not in known
    ]


def _check_identity(
    kit: Path, manifest: Manifest, own: x509.Certificate, root: x509.Certificate
) -> list[KitFinding]:
    certificate, key = _own_name(manifest, "crt"), _own_name(manifest, "key")
    findings = []
    try:
        own.verify_directly_issued_by(root)
    except (InvalidSignature, ValueError, TypeError):
        findings.append(
            KitFinding("wrong-certificate", certificate, "not signed by the kit's root")
        )
    names = [name.value for name in own.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [manifest.participant]:
        detail = (
            f"issued to {', '.join(map(str, names))}, but the kit is for {manifest.participant}"
        )
        findings.append(KitFinding("wrong-certificate", certificate, detail))
    try:
        # The consistency of its numbers is not tested: that takes longer than all the rest, and its
        # bytes are in the signed list.
        private = load_pem_private_key(
            read_plain(kit / key, MAX_FILE), None, unsafe_skip_rsa_key_validation=True
        )
        if private.public_key() != own.public_key():
            raise ValueError
    except (OSError, ValueError, TypeError):
        findings.append(KitFinding("wrong-key", key, "not the certificate's key"))
    now = datetime.now(UTC)
    for name, checked in ((certificate, own), (ROOT, root)):
        if now > checked.not_valid_after_utc:
            end = f"{checked.not_valid_after_utc:%Y-%m-%d}"
            findings.append(KitFinding("expired", name, f"it ended on {end}; ask for a new kit"))
        elif now < checked.not_valid_before_utc:
            begin = f"{checked.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
            detail = f"not valid before {begin}; check this machine's clock"
            findings.append(KitFinding("expired", name, detail))
    return findings
