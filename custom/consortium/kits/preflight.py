"""Will this kit run on this machine? Each check says what it found and, where red, what to do.

No FLARE and no torch: what needs them is handed in. Nothing is written, nothing is started, and the
orchestrator sees a TLS handshake and no more.
"""

import shutil
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.x509.oid import NameOID

from consortium import __version__
from consortium.core.errors import ConsortiumError, Refused
from consortium.core.json_files import read_json_object
from consortium.kits.hospital import HOSPITAL, HospitalFile, read_hospital
from consortium.kits.lock import hold_kit
from consortium.kits.manifest import Manifest
from consortium.kits.verify import ROOT, Verdict, verify_kit

TIMEOUT = 5.0  # seconds for a connection
_SOON, _FREE = 30, 10  # days, GB
Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the table.

    Attributes:
        what: was looked at.
        level: `error` keeps the kit from working, `warning` wants a look.
        found: in words.
        todo: what to do about it; empty where it is in order.
    """

    what: str
    level: Level
    found: str
    todo: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """What only heavier packages can tell.

    Attributes:
        gpus: a text for each GPU that torch can use.
        driver: version of the GPU's driver, "" where there is none.
        check_data: errors and warnings in a hospital's folder; raises a `ConsortiumError`.
    """

    gpus: Callable[[], list[str]]
    driver: Callable[[], str]
    check_data: Callable[[Path], tuple[int, int]]


def preflight(kit: Path, machine: Machine) -> Iterator[Check]:
    """Looks at a kit and the machine it lies on, one check after the other.

    Args:
        kit: the kit's folder; of a hospital, the orchestrator or an admin.
        machine: see `Machine`.

    Raises:
        Refused: this is no kit, or not a signed one.
        UsageError: the hospital's own file is wrong.
    """
    verdict = verify_kit(kit)
    said = verdict.manifest
    wrong = verdict.findings
    yield Check(
        "kit",
        "error" if wrong else "ok",
        f"{len(wrong)} findings" if wrong else f"as signed for {said.participant}",
        "consortium verify-kit names them; ask the coordinator" if wrong else "",
    )
    own = read_hospital(kit)
    yield _root(verdict)
    days = (verdict.valid_until - datetime.now(UTC)).days
    yield Check(
        "certificate",
        "error" if days < 0 else "warning" if days < _SOON else "ok",
        f"until {verdict.valid_until:%Y-%m-%d}, {days} days",
        "ask the coordinator for a new kit" if days < _SOON else "",
    )
    same = said.version == __version__
    yield Check(
        "package",
        "ok" if same else "error",
        f"{__version__}; the consortium's is {said.version}",
        "" if same else f"install consortium {said.version}",
    )
    free = shutil.disk_usage(kit).free / 1e9
    yield Check(
        "disk",
        "ok" if free >= _FREE else "warning",
        f"{free:.0f} GB free",
        "" if free >= _FREE else f"give it {_FREE} GB",
    )
    if said.role == "server":
        yield look_at_own_port(kit)
        return
    yield from look_at_orchestrator(kit, said)
    if said.role == "client":
        yield _gpus(own, machine)
        yield _data(own, machine)


def _root(verdict: Verdict) -> Check:
    if verdict.compared:
        return Check("root", "ok", "has the fingerprint that the hospital wrote down")
    todo = "ask for it by telephone; consortium verify-kit --root-sha256 compares it"
    if verdict.manifest.role == "client":
        todo = f"ask for it by telephone and write it into {HOSPITAL} as root_sha256"
    return Check("root", "warning", "its fingerprint was compared with none", todo)


def _target(kit: Path, role: str) -> tuple[str, int, str]:
    """Host, port and name of the orchestrator."""
    if role == "client":
        server = read_json_object(kit / "startup" / "fed_client.json")["servers"][0]
        host, _, port = str(server["service"]["target"]).rpartition(":")
        return host, int(port), str(server["identity"])
    admin = read_json_object(kit / "startup" / "fed_admin.json")["admin"]
    return str(admin["host"]), int(admin["port"]), str(admin["server_identity"])


def look_at_orchestrator(kit: Path, said: Manifest) -> Iterator[Check]:
    """Looks for the orchestrator's name, its port (`port`) and its identity (`orchestrator`).

    Args:
        kit: of a hospital or an admin.
        said: what the root says of the kit.
    """
    host, port, identity = _target(kit, said.role)
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]
    except OSError as error:
        yield Check(
            "name", "error", f"{host} is not known ({error.strerror})", "ask your network's people"
        )
        return
    yield Check("name", "ok", f"{host} is {address}")
    try:
        connection = socket.create_connection((host, port), timeout=TIMEOUT)
    except OSError as error:
        told = error.strerror or "no answer"
        yield Check(
            "port",
            "error",
            f"{host}:{port}: {told}",
            "is the orchestrator running, and does your firewall let this machine out to it?",
        )
        return
    with connection:
        met = _handshake(connection, kit, host, identity)
        if met.what != "port":
            yield Check("port", "ok", f"{host}:{port} answers")
        yield met


def _handshake(connection: socket.socket, kit: Path, host: str, identity: str) -> Check:
    context = ssl.create_default_context(cafile=str(kit / ROOT))
    context.load_cert_chain(kit / "startup" / "client.crt", kit / "startup" / "client.key")
    context.set_alpn_protocols(["h2"])
    ask = "tell the coordinator: it is not the orchestrator of this consortium"
    try:
        try:
            wrapped = context.wrap_socket(connection, server_hostname=host)
        except (ConnectionError, TimeoutError, ssl.SSLEOFError):
            told = "something answers, and breaks off before it says who it is"
            return Check("port", "error", told, "is the orchestrator running behind your proxy?")
        with wrapped as secure:
            certificate = secure.getpeercert(binary_form=True)
            assert certificate is not None
            subject = x509.load_der_x509_certificate(certificate).subject
            name = str(subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
            if name != identity:
                return Check("orchestrator", "error", f"it is {name} and not {identity}", ask)
            # In TLS 1.3 a client learns only afterwards that its certificate is refused.
            secure.settimeout(TIMEOUT)
            secure.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
            if not secure.recv(1):
                raise ssl.SSLError(1, "closed without a word")
    except ssl.SSLCertVerificationError as error:
        told = f"its certificate is not for this consortium ({error.verify_message})"
        return Check("orchestrator", "error", told, ask)
    except (OSError, ssl.SSLError) as error:
        return Check(
            "orchestrator",
            "error",
            f"it does not take this kit's certificate ({error.strerror or error})",
            "ask the coordinator whether the kit is the newest",
        )
    return Check("orchestrator", "ok", f"{identity}, by its certificate; mutual TLS works")


def look_at_own_port(kit: Path) -> Check:
    """Looks whether the orchestrator's port is free for it (`port`).

    Args:
        kit: the orchestrator's.
    """
    try:
        hold_kit(kit).close()
    except Refused:
        return Check("port", "ok", "this kit is running")
    server = read_json_object(kit / "startup" / "fed_server.json")["servers"][0]
    port = int(str(server["service"]["target"]).rpartition(":")[2])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            return Check(
                "port",
                "error",
                f"{port}: {error.strerror}",
                "end what uses it (ss -ltnp shows it), or change fed_learn_port and provision",
            )
    return Check("port", "ok", f"{port} is free; open it to hospitals and admins, to nobody else")


def _gpus(own: HospitalFile, machine: Machine) -> Check:
    found = machine.gpus()
    seen = ", ".join(found) or "none"
    driver = machine.driver()
    if driver:
        seen += f"; driver {driver}"
    if own.gpus > len(found):
        return Check(
            "gpus",
            "error",
            f"{HOSPITAL} states {own.gpus}, torch sees {seen}",
            "correct it, or install the driver and torch's build for CUDA",
        )
    if found and not own.gpus:
        todo = f'state them in {HOSPITAL}: "gpus" and "gpu_memory", or jobs train on the CPU'
        return Check("gpus", "warning", f"{seen}; none is stated", todo)
    return Check("gpus", "ok", f"{own.gpus} stated; torch sees {seen}")


def _data(own: HospitalFile, machine: Machine) -> Check:
    if not own.data:
        return Check("data", "error", "no folder is named", f'write it into {HOSPITAL} as "data"')
    try:
        errors, warnings = machine.check_data(Path(own.data))
    except ConsortiumError as error:
        return Check("data", "error", f"{own.data}: {error.what}", error.todo)
    todo = f"consortium check-data {own.data} names them" if errors or warnings else ""
    level: Level = "error" if errors else "warning" if warnings else "ok"
    return Check("data", level, f"{own.data}: {errors} errors, {warnings} warnings", todo)
