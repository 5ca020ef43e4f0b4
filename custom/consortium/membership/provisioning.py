"""From a project file to signed startup kits, as the coordinator runs it.

The folder that this writes belongs to the coordinator:

* `kits/NAME/`: a kit a participant, to be handed over; no run leaves anything here;
* `state.json`: the root's key and all others, mode 0600, sealed where a passphrase is given.

What always holds: a rerun leaves every kit byte-identical whose participant did not change, keys
never touch a disk outside this folder (where the machine has memory-backed storage), and the state
is written before any kit that depends on it.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from cryptography import x509

from consortium.core.errors import Refused, UsageError
from consortium.core.files import replace_file, sole_user, whole_folder
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

KITS, STATE_FILE = "kits", "state.json"
_PRISTINE = {"startup", "local", "transfer", README}


@dataclass(frozen=True, slots=True)
class Kit:
    """A kit after provisioning.

    Attributes:
        participant: from the project.
        made: whether it is new, was made again because something changed, or stands as it was.
        valid_until: when its certificate ends.
    """

    participant: Participant
    made: Literal["new", "again", "unchanged"]
    valid_until: datetime


@dataclass(frozen=True, slots=True)
class Outcome:
    """What provisioning left.

    Attributes:
        kits: in the project's order.
        root_sha256: fingerprint that every participant is told by another way.
        sealed: whether the state is sealed by a passphrase.
        notes: what a person should know, in words.
    """

    kits: list[Kit]
    root_sha256: str
    sealed: bool
    notes: list[str]


def create(
    project_file: Path, out: Path, *, passphrase: str = "", ask: Callable[[], str] = lambda: ""
) -> Outcome:
    """Makes the kits of a project, or those that are missing.

    Args:
        project_file: checked first.
        out: the coordinator's folder.
        passphrase: seals the state; where it is sealed already, opens it.
        ask: gives the passphrase where the state is sealed and none was given.

    Raises:
        UsageError: the project file or the state is wrong; nothing was written.
        Refused: a participant changed, a kit was used in place, the passphrase is wrong.
        EnvironmentProblem: FLARE or the disk fails.
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
) -> Outcome:
    """Adds a participant: its kit is made, and the project file gains it; nothing else changes.

    Args:
        project_file: to be added to; its comments and order stay.
        out: the coordinator's folder.
        entry: `name`, `type`, `org` and, of an admin, `role`.
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
    if any(one.name == entry["name"] for one in project.participants):
        raise Refused(
            "exists", f"{entry['name']} takes part already", str(project_file), "choose a name"
        )
    text = with_participant(project_file.read_text(encoding="utf-8"), entry)
    project, raw = parse_project(text, str(project_file))
    with sole_user(out):
        outcome = _create(project, raw, out, passphrase, ask)
        # Last, so that the file never names a participant without a kit.
        replace_file(project_file, lambda beside: _write_like(project_file, beside, text))
        return outcome


def _create(
    project: Project, raw: dict[str, Any], out: Path, passphrase: str, ask: Callable[[], str]
) -> Outcome:
    used = passphrase

    def open_with() -> str:
        nonlocal used
        used = passphrase or ask()
        return used

    before = read_state(out / STATE_FILE, open_with)
    if before is not None:
        root = x509.load_pem_x509_certificate(before["root_cert"].encode())
        check_unchanged(project, root, certificates(before))
    with _memory() as place:
        if before is not None:
            path = place / project.name / STATE
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(before), encoding="utf-8")
        made = provision(raw, place)
        state = json.loads((place / project.name / STATE).read_text(encoding="utf-8"))
        kits = {
            one.name: _what_changes(made / one.name, out / KITS / one.name)
            for one in project.participants
        }
        if state != before or passphrase:
            write_state(out / STATE_FILE, state, used)
        held = certificates(state)
        for name, what in kits.items():
            if what != "unchanged":
                _install(made / name, out / KITS / name)
    root = x509.load_pem_x509_certificate(state["root_cert"].encode())
    return Outcome(
        [
            Kit(one, kits[one.name], held[one.name].not_valid_after_utc)
            for one in project.participants
        ],
        fingerprint(root),
        bool(used),
        [*project.notes(), *_left_out(project, held)],
    )


def _what_changes(made: Path, target: Path) -> Literal["new", "again", "unchanged"]:
    """Whether a kit is to be put to its place.

    Raises:
        Refused: `kit-in-use`, where a kit to be replaced was started in place.
    """
    if not target.exists():
        return "new"
    same = (target / MANIFEST).is_file() and (
        (target / MANIFEST).read_bytes() == (made / MANIFEST).read_bytes()
    )
    if same and not verify_kit(target).findings:
        return "unchanged"
    if {path.name for path in target.iterdir()} - _PRISTINE:
        raise Refused(
            "kit-in-use",
            "the kit must be made again and was started where it lies",
            str(target),
            "move it to the machine that runs it",
        )
    return "again"


def _install(made: Path, target: Path) -> None:
    with whole_folder(target) as beside:
        shutil.copytree(made, beside, dirs_exist_ok=True)
        beside.chmod(0o700)


def _left_out(project: Project, held: dict[str, x509.Certificate]) -> list[str]:
    names = {one.name for one in project.participants}
    return [
        f"{name} is no longer in the project, but its kit is valid until"
        f" {certificate.not_valid_after_utc:%Y-%m-%d}: FLARE cannot revoke it"
        for name, certificate in held.items()
        if name not in names
    ]


def _write_like(old: Path, beside: Path, text: str) -> None:
    beside.write_text(text, encoding="utf-8")
    shutil.copymode(old, beside)


@dataclass(frozen=True, slots=True)
class Held:
    """A certificate in a kit of the coordinator's folder.

    Attributes:
        participant: whose; "root" for the consortium's own.
        role: `server`, `client`, an admin's role, or "" for the root.
        organisation: that it belongs to, "" for the root.
        valid_until: when it ends.
    """

    participant: str
    role: str
    organisation: str
    valid_until: datetime

    def days_left(self, now: datetime | None = None) -> int:
        """Whole days until it ends; negative where it has."""
        return (self.valid_until - (now or datetime.now(UTC))).days


def status(out: Path) -> list[Held]:
    """Every certificate of the consortium, the root's first; needs no passphrase.

    Raises:
        UsageError: `no-kits`.
        Refused: a kit's list of files is missing or not the root's.
    """
    kits = sorted((out / KITS).glob("*/"))
    if not kits:
        raise UsageError(
            "no-kits", "nothing was provisioned here", str(out), "run scripts/provision create"
        )
    root = x509.load_pem_x509_certificate((kits[0] / ROOT).read_bytes())
    held = [Held("root", "", "", root.not_valid_after_utc)]
    for kit in kits:
        verdict = verify_kit(kit)
        said = verdict.manifest
        held.append(Held(said.participant, said.role, said.organisation, verdict.valid_until))
    return held


@contextlib.contextmanager
def _memory() -> Iterator[Path]:
    """A private folder for keys in clear, in memory where the machine has such a place."""
    shared = Path("/dev/shm")
    where = shared if shared.is_dir() and os.access(shared, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=where) as place:
        yield Path(place)
