"""`project.yml`: the participants of the consortium, checked before FLARE reads it.

FLARE reports some of these mistakes with a traceback, others only at the first start or never: two
names that differ only in case, a hospital with the name of FLARE's own site, a role that no policy
knows, a changed organisation that contradicts an old certificate.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from cryptography import x509
from cryptography.x509.oid import NameOID
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from consortium.core.errors import Refused, UsageError
from consortium.core.plain_files import read_plain

ROLES = ("project_admin", "org_admin", "lead", "member")
LOCALHOST = ("localhost", "127.0.0.1", "::1")
BUILDERS = (
    "nvflare.lighter.impl.workspace.WorkspaceBuilder",
    "consortium.flare.kit_builder.KitBuilder",
)
"""The first two builders, in this order; see `consortium.flare.kit_builder`."""

_TAKEN = ("server", "global", "all")  # FLARE's own site, the folder of common curves, a target
_TARGETS = ("site", "submitter")  # words with a meaning of their own in FLARE's policies
_SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_ORGANISATION = re.compile(r"[A-Za-z0-9_]{1,64}")
_ADMIN = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}")
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


class Participant(BaseModel):
    """One entry of `participants`; FLARE's other keys are passed on.

    Attributes:
        name: name of the site, or the admin's e-mail address; at most 63 characters, as it becomes
            the common name of a certificate.
        type: the orchestrator is FLARE's `server`, a hospital is a `client`.
        org: organisation; letters, digits and `_`.
        role: an admin's role.
        default_host: the server's host name for hospitals and admins; `name` by default.
        host_names: further names and addresses of the server.
        fed_learn_port: the server's port for hospitals.
        admin_port: the server's port for admins; by default the same.
        connection_security: only mutual TLS.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str
    type: Literal["server", "client", "admin"]
    org: str
    role: str | None = None
    default_host: str | None = None
    host_names: list[str] = []
    fed_learn_port: int = Field(8002, ge=1, le=65535)
    admin_port: int | None = Field(None, ge=1, le=65535)
    connection_security: Literal["mtls"] = "mtls"

    @property
    def certified_role(self) -> str:
        """The role in the kit's manifest: `server`, `client`, or an admin's role."""
        return self.role or self.type

    @property
    def hosts(self) -> set[str]:
        """All names and addresses of a server."""
        return {self.default_host or self.name, *self.host_names}


class Project(BaseModel):
    """The content of a `project.yml`.

    Attributes:
        api_version: 3.
        name: the consortium's; becomes the root's common name.
        participants: one server, hospitals and admins.
        builders: FLARE's and ours, each with its `path`.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    api_version: Literal[3]
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")
    participants: list[Participant]
    builders: list[dict[str, Any]]

    @property
    def server(self) -> Participant:
        """The orchestrator."""
        return next(entry for entry in self.participants if entry.type == "server")

    def notes(self) -> list[str]:
        """Warns of entries that are valid but may not be intended."""
        notes = []
        if self.server.hosts <= set(LOCALHOST):
            notes.append(
                f"{self.server.name} can be reached only on this machine; put its DNS name into"
                " default_host for hospitals elsewhere"
            )
        stewards = {entry.org for entry in self.participants if entry.role == "org_admin"}
        notes += [
            f"hospital {entry.name} has no org_admin of its organisation, {entry.org}"
            for entry in self.participants
            if entry.type == "client" and entry.org not in stewards
        ]
        return notes


def read_project(path: Path) -> tuple[Project, dict[str, Any]]:
    """Reads and checks a project file.

    Returns:
        The project, and the plain content of the file for FLARE.

    Raises:
        UsageError: `missing-file`, `bad-yaml` or `bad-project`.
    """
    try:
        text = read_plain(path).decode("utf-8")
    except FileNotFoundError:
        raise UsageError("missing-file", "no such file", str(path), "check the path") from None
    except (OSError, ValueError) as error:
        raise UsageError("bad-yaml", f"cannot be read ({error})", str(path), "repair it") from None
    return parse_project(text, str(path))


def parse_project(text: str, where: str) -> tuple[Project, dict[str, Any]]:
    """Checks the text of a project file; see `read_project`."""
    try:
        raw = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise UsageError("bad-yaml", f"{line}{problem}", where, "repair it") from None
    if not isinstance(raw, dict):
        raise UsageError("bad-yaml", "the top level is not a mapping", where, "repair it")
    try:
        project = Project.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise _bad(f"{_key(raw, first['loc'])}: {first['msg']}", where) from None
    _check(project, where)
    return project, raw


def with_participant(text: str, entry: Mapping[str, str]) -> str:
    """Adds a participant to the text of a project file; comments and order stay."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    content = yaml.load(text)
    added = yaml.map(**entry)
    added.fa.set_flow_style()
    content["participants"].append(added)
    out = StringIO()
    yaml.dump(content, out)
    return out.getvalue()


def _bad(what: str, where: str) -> UsageError:
    return UsageError("bad-project", what, where, "correct it")


def _key(raw: Mapping[str, Any], loc: tuple[int | str, ...]) -> str:
    """Names an entry of the file, with the participant's name rather than its number."""
    parts = [str(part) for part in loc]
    if len(loc) > 1 and loc[0] == "participants":
        entry = raw["participants"][loc[1]]
        name = entry.get("name") if isinstance(entry, dict) else None
        parts[:2] = [f"participant {name or f'number {int(loc[1]) + 1}'}"]
    return " ".join(parts)


def _check(project: Project, where: str) -> None:
    paths = tuple(builder.get("path") for builder in project.builders)
    if paths[:2] != BUILDERS:
        raise _bad(f"builders must begin with {' and '.join(BUILDERS)}", where)
    servers = [entry.name for entry in project.participants if entry.type == "server"]
    if len(servers) != 1:
        raise _bad(f"exactly one participant must be of type server, not {len(servers)}", where)
    names = Counter(entry.name.lower() for entry in project.participants)
    twice = [name for name, times in names.items() if times > 1]
    if twice:
        raise _bad(f"two participants have the name {twice[0]}", where)
    for participant in project.participants:
        fault = _fault_of(participant)
        if fault:
            raise _bad(f"participant {participant.name}: {fault}", where)


def _fault_of(participant: Participant) -> str:
    name, org = participant.name, participant.org
    if not _ORGANISATION.fullmatch(org):
        return f"org {org!r} must be letters, digits and _"
    if org.lower() in _TARGETS:
        return f"org {org!r} has another meaning in FLARE's policies"
    if participant.type == "admin":
        if len(name) > 63 or not _ADMIN.fullmatch(name):
            return "an admin's name must be an e-mail address of at most 63 characters"
        if participant.role not in ROLES:
            return f"role must be one of {', '.join(ROLES)}"
        return ""
    if participant.role is not None:
        return "only an admin has a role"
    if participant.type == "client":
        if not _SITE.fullmatch(name) or name.lower() in _TAKEN:
            return (
                "a hospital's name must be letters, digits, - and _, at most 63, and not"
                f" {', '.join(_TAKEN)}"
            )
        return ""
    wrong = [host for host in sorted({name, *participant.hosts}) if not _is_host(host)]
    return f"{wrong[0]!r} is not a host name or address" if wrong else ""


def _is_host(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return len(host) <= 253 and all(_LABEL.fullmatch(part) for part in host.split("."))
    return ":" not in host  # FLARE writes host:port without brackets


def check_unchanged(
    project: Project, root: x509.Certificate, certificates: Mapping[str, x509.Certificate]
) -> None:
    """Refuses a change that FLARE would ignore because it keeps the old certificate.

    Args:
        project: the new project.
        root: the consortium's certificate.
        certificates: the certificates issued so far, by participant.

    Raises:
        Refused: `changed-project` or `changed-participant`.
    """
    was = _attribute(root, NameOID.COMMON_NAME)
    if was != project.name:
        raise Refused(
            "changed-project",
            f"the root certificate is for {was}, but the project is called {project.name}",
            "name",
            "keep the name, or provision into another folder",
        )
    for participant in project.participants:
        issued = certificates.get(participant.name)
        if issued is None:
            continue
        org, role = (
            _attribute(issued, oid)
            for oid in (NameOID.ORGANIZATION_NAME, NameOID.UNSTRUCTURED_NAME)
        )
        changes = {
            "organisation": (org, participant.org),
            "role": (role, participant.role),
        }
        if participant.type == "server":
            changes["hosts"] = (_joined(_hosts(issued)), _joined(participant.hosts))
        for what, (was, now) in changes.items():
            if was != now:
                raise Refused(
                    "changed-participant",
                    f"{what} of {participant.name}: {was} in the certificate, {now} in the project",
                    f"participant {participant.name}",
                    "give it another name, or provision into another folder",
                )


def _attribute(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> str | None:
    attributes = certificate.subject.get_attributes_for_oid(oid)
    return str(attributes[0].value) if attributes else None


def _hosts(certificate: x509.Certificate) -> set[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in names}


def _joined(hosts: set[str]) -> str:
    return ", ".join(sorted(hosts))
