"""Makes signed startup kits from a project file; the coordinator runs it.

The output folder belongs to the coordinator:

* `kits/NAME/`: one kit for each participant, to be handed over; runs write nothing here.
* `state.json`: all keys, the root's included; mode 0600, sealed if a passphrase is given.

Invariants: a rerun keeps the bytes of every kit whose participant did not change; on a machine with
memory-backed storage keys are never written to a disk outside this folder; the state is written
before any kit that depends on it.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from cryptography import x509

from consortium.core.errors import Refused, UsageError
from consortium.core.files import replace_file, sole_user, whole_folder
from consortium.core.json_files import read_json_object
from consortium.core.plain_files import read_plain
from consortium.flare.provisioner import STATE, provision
from consortium.kits.manifest import MANIFEST, fingerprint
from consortium.kits.project import (
    Participant,
    Project,
    check_unchanged,
    parse_project,
    read_project,
    with_participant,
)
from consortium.kits.readme import README
from consortium.kits.state import certificates, read_state, write_state
from consortium.kits.verify import ROOT, verify_kit
from consortium.membership.private_folder import private_folder

KITS, STATE_FILE = "kits", "state.json"
_PRISTINE = {"startup", "local", "transfer", README}


@dataclass(frozen=True, slots=True)
class Kit:
    """A kit after provisioning.

    Attributes:
        participant: its owner, from the project.
        made: `new`, made `again` because something changed, or `unchanged`.
        valid_until: end of its certificate.
    """

    participant: Participant
    made: Literal["new", "again", "unchanged"]
    valid_until: datetime


@dataclass(frozen=True, slots=True)
class ProvisioningResult:
    """Result of provisioning.

    Attributes:
        kits: in the project's order.
        root_sha256: fingerprint of the root, to be given to every participant another way.
        sealed: whether the state is sealed by a passphrase.
        notes: warnings for the coordinator.
    """

    kits: list[Kit]
    root_sha256: str
    sealed: bool
    notes: list[str]


def create(
    project_file: Path, out: Path, *, passphrase: str = "", ask: Callable[[], str] = lambda: ""
) -> ProvisioningResult:
    """Makes the kits of a project; a rerun makes those that are missing or changed.

    Args:
        project_file: the project; checked first.
        out: the coordinator's folder.
        passphrase: seals the state; opens it if it is sealed already.
        ask: returns the passphrase if the state is sealed and `passphrase` is empty.

    Raises:
        UsageError: the project file or the state is wrong; nothing was written.
        Refused: a participant changed, a kit was started in place, or the passphrase is wrong.
        EnvironmentProblem: FLARE or the disk failed.
    """
    project, raw = read_project(project_file)
    with sole_user(out):
        return _create(project, raw, out, passphrase, ask)


def add(
    project_file: Path,
    out: Path,
    entry: dict[str, str],
    *,
    passphrase: str = "",
    ask: Callable[[], str] = lambda: "",
) -> ProvisioningResult:
    """Adds a participant to the project file and makes its kit; nothing else changes.

    Args:
        project_file: the project; its comments and order stay.
        out: the coordinator's folder.
        entry: `name`, `type`, `org` and, for an admin, `role`.
        passphrase: see `create`.
        ask: see `create`.

    Raises:
        See `create`.
    """
    project, _ = read_project(project_file)
    if not (out / STATE_FILE).is_file():
        raise UsageError(
            "no-state", "nothing was provisioned here", str(out), "run scripts/provision create"
        )
    if any(participant.name == entry["name"] for participant in project.participants):
        raise Refused(
            "exists",
            f"{entry['name']} is already in the project",
            str(project_file),
            "choose another name",
        )
    text = with_participant(project_file.read_text(encoding="utf-8"), entry)
    project, raw = parse_project(text, str(project_file))
    with sole_user(out):
        result = _create(project, raw, out, passphrase, ask)
        # Last, so that the file never names a participant without a kit.
        replace_file(project_file, lambda partial: _write_like(project_file, partial, text))
        return result


def _create(
    project: Project, raw: dict[str, Any], out: Path, passphrase: str, ask: Callable[[], str]
) -> ProvisioningResult:
    used = passphrase

    def open_with() -> str:
        nonlocal used
        used = passphrase or ask()
        return used

    before = read_state(out / STATE_FILE, open_with)
    if before is not None:
        root = x509.load_pem_x509_certificate(before["root_cert"].encode())
        check_unchanged(project, root, certificates(before))
    with private_folder() as folder:
        if before is not None:
            path = folder / project.name / STATE
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(before), encoding="utf-8")
        made = provision(raw, folder)
        state = read_json_object(folder / project.name / STATE)
        changes = {
            participant.name: _change_of(made / participant.name, out / KITS / participant.name)
            for participant in project.participants
        }
        if state != before or passphrase:
            write_state(out / STATE_FILE, state, used)
        issued = certificates(state)
        for name, change in changes.items():
            if change != "unchanged":
                _install(made / name, out / KITS / name)
    root = x509.load_pem_x509_certificate(state["root_cert"].encode())
    return ProvisioningResult(
        [
            Kit(
                participant,
                changes[participant.name],
                issued[participant.name].not_valid_after_utc,
            )
            for participant in project.participants
        ],
        fingerprint(root),
        bool(used),
        [*project.notes(), *_former_participants(project, issued)],
    )


def _change_of(made: Path, target: Path) -> Literal["new", "again", "unchanged"]:
    """Compares a kit with the one in the coordinator's folder.

    Raises:
        Refused: `kit-in-use`, if a kit that must be replaced was started in place.
    """
    if not target.exists():
        return "new"
    same = (target / MANIFEST).is_file() and (
        read_plain(target / MANIFEST) == read_plain(made / MANIFEST)
    )
    if same and not verify_kit(target).findings:
        return "unchanged"
    if {path.name for path in target.iterdir()} - _PRISTINE:
        raise Refused(
            "kit-in-use",
            "the kit must be made again, but was started in this folder",
            str(target),
            "move it to the machine that runs it",
        )
    return "again"


def _install(made: Path, target: Path) -> None:
    with whole_folder(target) as partial:
        shutil.copytree(made, partial, dirs_exist_ok=True)
        partial.chmod(0o700)


def _former_participants(project: Project, issued: dict[str, x509.Certificate]) -> list[str]:
    names = {participant.name for participant in project.participants}
    return [
        f"{name} is no longer in the project, but its kit is valid until"
        f" {certificate.not_valid_after_utc:%Y-%m-%d}: FLARE cannot revoke it"
        for name, certificate in issued.items()
        if name not in names
    ]


def _write_like(old: Path, new: Path, text: str) -> None:
    new.write_text(text, encoding="utf-8")
    shutil.copymode(old, new)


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A certificate in a kit of the coordinator's folder.

    Attributes:
        participant: its owner; "root" for the consortium's own.
        role: `server`, `client`, an admin's role, or "" for the root.
        organisation: the owner's; "" for the root.
        valid_until: its end.
    """

    participant: str
    role: str
    organisation: str
    valid_until: datetime

    def days_left(self, now: datetime | None = None) -> int:
        """Whole days until it ends; negative if it has ended."""
        return (self.valid_until - (now or datetime.now(UTC))).days


def status(out: Path) -> list[IssuedCertificate]:
    """Lists every certificate of the consortium, the root's first; needs no passphrase.

    Raises:
        UsageError: `no-kits`.
        Refused: a kit's list of files is missing, or not signed by the root.
    """
    kits = sorted((out / KITS).glob("*/"))
    if not kits:
        raise UsageError(
            "no-kits", "nothing was provisioned here", str(out), "run scripts/provision create"
        )
    root = x509.load_pem_x509_certificate(read_plain(kits[0] / ROOT))
    issued = [IssuedCertificate("root", "", "", root.not_valid_after_utc)]
    for kit in kits:
        report = verify_kit(kit)
        owner = report.manifest
        issued.append(
            IssuedCertificate(owner.participant, owner.role, owner.organisation, report.valid_until)
        )
    return issued
