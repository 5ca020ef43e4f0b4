"""Checks whether a kit will run on this machine. Each check has a result and, if red, advice.

No FLARE and no torch: `Machine` passes in what needs them. Nothing is written or started. The
orchestrator sees only a TLS handshake.
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
from consortium.core.plurals import plural
from consortium.core.site_policy import Privacy
from consortium.kits.hospital import HOSPITAL, HospitalFile, read_hospital
from consortium.kits.lock import hold_kit
from consortium.kits.manifest import Manifest
from consortium.kits.rights import POLICY
from consortium.kits.verify import ROOT, KitReport, verify_kit

TIMEOUT = 5.0  # seconds for a connection
SOON, _FREE = 30, 10  # days, GB
Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the table.

    Attributes:
        name: of what was checked.
        level: `error` stops the kit from working, `warning` needs a look.
        result: in words.
        todo: what to do; empty if the check passed.
    """

    name: str
    level: Level
    result: str
    todo: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """Functions of this machine that need heavier packages.

    Attributes:
        gpus: describes each GPU that torch can use.
        driver: version of the GPU's driver, "" without one.
        check_data: counts errors and warnings in a hospital's folder; raises `ConsortiumError`.
    """

    gpus: Callable[[], list[str]]
    driver: Callable[[], str]
    check_data: Callable[[Path], tuple[int, int]]


def preflight(kit: Path, machine: Machine) -> Iterator[Check]:
    """Checks a kit and this machine, one check after the other.

    Args:
        kit: folder of a hospital's, the orchestrator's or an admin's kit.
        machine: see `Machine`.

    Raises:
        Refused: the folder is not a kit, or the kit is not signed.
        UsageError: the hospital's own file is wrong.
    """
    report = verify_kit(kit)
    manifest = report.manifest
    wrong = report.findings
    yield Check(
        "kit",
        "error" if wrong else "ok",
        plural(len(wrong), "finding") if wrong else f"as signed for {manifest.participant}",
        "consortium verify-kit names them; ask the coordinator" if wrong else "",
    )
    own = read_hospital(kit)
    yield _check_root(report)
    days = (report.valid_until - datetime.now(UTC)).days
    yield Check(
        "certificate",
        "error" if days < 0 else "warning" if days < SOON else "ok",
        f"until {report.valid_until:%Y-%m-%d}, {plural(days, 'day')}",
        "ask the coordinator for a new kit" if days < SOON else "",
    )
    same = manifest.version == __version__
    yield Check(
        "package",
        "ok" if same else "error",
        f"{__version__}; the consortium's is {manifest.version}",
        "" if same else f"install consortium {manifest.version}",
    )
    free = shutil.disk_usage(kit).free / 1e9
    yield Check(
        "disk",
        "ok" if free >= _FREE else "warning",
        f"{free:.0f} GB free",
        "" if free >= _FREE else f"free {_FREE} GB",
    )
    if manifest.role == "server":
        yield probe_own_port(kit)
        return
    yield from probe_orchestrator(kit, manifest)
    if manifest.role == "client":
        yield _check_rights(report)
        yield _check_privacy(own)
        yield _check_gpus(own, machine)
        yield _check_data(own, machine)


def _check_root(report: KitReport) -> Check:
    if report.compared:
        return Check("root", "ok", "has the fingerprint in the hospital's own file")
    todo = "ask for it by telephone; consortium verify-kit --root-sha256 compares it"
    if report.manifest.role == "client":
        todo = f"ask for it by telephone and write it into {HOSPITAL} as root_sha256"
    return Check("root", "warning", "its fingerprint was not compared", todo)


def _target(kit: Path, role: str) -> tuple[str, int, str]:
    """Returns host, port and name of the orchestrator."""
    if role == "client":
        server = read_json_object(kit / "startup" / "fed_client.json")["servers"][0]
        host, _, port = str(server["service"]["target"]).rpartition(":")
        return host, int(port), str(server["identity"])
    admin = read_json_object(kit / "startup" / "fed_admin.json")["admin"]
    return str(admin["host"]), int(admin["port"]), str(admin["server_identity"])


def probe_orchestrator(kit: Path, manifest: Manifest) -> Iterator[Check]:
    """Checks the orchestrator's host name (`name`), its `port` and its identity (`orchestrator`).

    Args:
        kit: of a hospital or an admin.
        manifest: of the kit.
    """
    host, port, identity = _target(kit, manifest.role)
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]
    except OSError as error:
        yield Check(
            "name", "error", f"{host} is unknown ({error.strerror})", "ask your network team"
        )
        return
    yield Check("name", "ok", f"{host} is {address}")
    try:
        connection = socket.create_connection((host, port), timeout=TIMEOUT)
    except OSError as error:
        reason = error.strerror or "no answer"
        yield Check(
            "port",
            "error",
            f"{host}:{port}: {reason}",
            "check that the orchestrator runs and that your firewall lets this machine reach it",
        )
        return
    with connection:
        check = _handshake(connection, kit, host, identity)
        if check.name != "port":
            yield Check("port", "ok", f"{host}:{port} answers")
        yield check


def _handshake(connection: socket.socket, kit: Path, host: str, identity: str) -> Check:
    context = ssl.create_default_context(cafile=str(kit / ROOT))
    context.load_cert_chain(kit / "startup" / "client.crt", kit / "startup" / "client.key")
    context.set_alpn_protocols(["h2"])
    ask = "tell the coordinator that this is not the consortium's orchestrator"
    try:
        try:
            wrapped = context.wrap_socket(connection, server_hostname=host)
        except (ConnectionError, TimeoutError, ssl.SSLEOFError):
            result = "something accepts the connection, but closes it before it identifies itself"
            return Check("port", "error", result, "check that the orchestrator behind it runs")
        with wrapped as secure:
            certificate = secure.getpeercert(binary_form=True)
            assert certificate is not None
            subject = x509.load_der_x509_certificate(certificate).subject
            name = str(subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
            if name != identity:
                return Check("orchestrator", "error", f"it is {name}, not {identity}", ask)
            # In TLS 1.3 a client learns only after the handshake that its certificate is refused.
            secure.settimeout(TIMEOUT)
            secure.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
            if not secure.recv(1):
                raise ssl.SSLError(1, "closed without a message")
    except ssl.SSLCertVerificationError as error:
        result = f"its certificate is not for this consortium ({error.verify_message})"
        return Check("orchestrator", "error", result, ask)
    except (OSError, ssl.SSLError) as error:
        return Check(
            "orchestrator",
            "error",
            f"it refuses this kit's certificate ({error.strerror or error})",
            "ask the coordinator whether this kit is the latest",
        )
    return Check("orchestrator", "ok", f"{identity}, by its certificate; mutual TLS works")


def probe_own_port(kit: Path) -> Check:
    """Checks that the orchestrator's `port` is free.

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
                "stop the process that uses it (ss -ltnp), or change fed_learn_port and provision",
            )
    return Check("port", "ok", f"{port} is free; open it only to hospitals and admins")


def _check_rights(report: KitReport) -> Check:
    if not report.further_rights:
        return Check("rights", "ok", "no more than the shipped ones")
    refused = any(finding.code == "further-right" for finding in report.findings)
    return Check(
        "rights",
        "error" if refused else "warning",
        "; ".join(report.further_rights),
        f"remove them from {POLICY}, or repeat them in further_rights of {HOSPITAL}"
        if refused
        else f"{POLICY} grants more than the shipped policy; remove what is not needed",
    )


def _check_privacy(own: HospitalFile) -> Check:
    privacy, shipped = own.privacy, Privacy()
    if privacy.randomness == "seed":
        result = "the batches follow from the job's seed, so two jobs can be subtracted"
        return Check("privacy", "warning", result, 'set "randomness" to "secret" in privacy')
    few = privacy.smallest_training < shipped.smallest_training
    result = f"takes part from {privacy.smallest_training} training patients"
    todo = f"the default is {shipped.smallest_training}; lower it for public data only"
    return Check("privacy", "warning" if few else "ok", result, todo if few else "")


def _check_gpus(own: HospitalFile, machine: Machine) -> Check:
    available = machine.gpus()
    seen = ", ".join(available) or "none"
    driver = machine.driver()
    if driver:
        seen += f"; driver {driver}"
    if own.gpus > len(available):
        return Check(
            "gpus",
            "error",
            f"{HOSPITAL} states {own.gpus}, torch sees {seen}",
            "correct it, or install the driver and torch for CUDA",
        )
    if available and not own.gpus:
        todo = f'state "gpus" and "gpu_memory" in {HOSPITAL}, or jobs train on the CPU'
        return Check("gpus", "warning", f"{seen}; none is stated", todo)
    return Check("gpus", "ok", f"{own.gpus} stated; torch sees {seen}")


def _check_data(own: HospitalFile, machine: Machine) -> Check:
    if not own.data:
        return Check("data", "error", "no folder is named", f'name it in {HOSPITAL} as "data"')
    try:
        errors, warnings = machine.check_data(Path(own.data))
    except ConsortiumError as error:
        return Check("data", "error", f"{own.data}: {error.what}", error.todo)
    todo = f"consortium check-data {own.data} names them" if errors or warnings else ""
    level: Level = "error" if errors else "warning" if warnings else "ok"
    return Check(
        "data", level, f"{own.data}: {plural(errors, 'error')}, {plural(warnings, 'warning')}", todo
    )
