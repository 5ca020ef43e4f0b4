"""The table of `preflight`; a bare TLS server with the kits' own keys stands in for FLARE."""

import contextlib
import shutil
import socket
import ssl
import threading
from pathlib import Path

import pytest
from tests.conftest import ROOT

from consortium.core.errors import Refused, UsageError
from consortium.core.files import write_json
from consortium.kits import preflight as module
from consortium.kits.lock import hold_kit
from consortium.kits.preflight import Machine, preflight
from consortium.kits.start import check_kit, check_orchestrator
from consortium.membership.provisioning import create


@pytest.fixture(scope="module")
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def consortia(port, tmp_path_factory):
    """Two independent consortia with the same names and port."""
    folder = tmp_path_factory.mktemp("consortia")
    text = (ROOT / "provisioning" / "project.yml").read_text().replace("8002", str(port))
    (folder / "project.yml").write_text(text)
    for name in ("ours", "theirs"):
        create(folder / "project.yml", folder / name)
    return folder


@pytest.fixture
def kit(consortia, tmp_path):
    shutil.copytree(consortia / "ours" / "kits" / "north", tmp_path / "north")
    write_json(tmp_path / "north" / "local" / "hospital.json", {"data": "/srv/tumours"})
    return tmp_path / "north"


@contextlib.contextmanager
def orchestrator(port, kit, name="server", trusts=None):
    """Runs a TLS server with a kit's certificate that admits clients of one root."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(kit / "startup" / f"{name}.crt", kit / "startup" / f"{name}.key")
    context.load_verify_locations((trusts or kit) / "startup" / "rootCA.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])

    def serve(listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), context.wrap_socket(connection, True) as secure:
                secure.recv(24)
                secure.sendall(b"\0")

    with socket.create_server(("127.0.0.1", port)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def machine(gpus=(), driver="", data=(0, 0)):
    def check(folder):
        assert folder == Path("/srv/tumours")
        if isinstance(data, Exception):
            raise data
        return data

    return Machine(lambda: list(gpus), lambda: driver, check)


def table(kit, on=None):
    return {check.name: check for check in preflight(kit, on or machine())}


def test_a_kit_that_will_run(kit, consortia, port):
    with orchestrator(port, consortia / "ours" / "kits" / "orchestrator"):
        checks = table(kit)
        admin = table(consortia / "ours" / "kits" / "researcher@north.example")
    assert {check.name for check in checks.values() if check.level != "ok"} == {"root"}
    assert checks["orchestrator"].result == "orchestrator, by its certificate; mutual TLS works"
    assert checks["certificate"].result.endswith("359 days")
    assert "gpus" not in admin
    assert admin["orchestrator"].level == "ok"


def test_an_orchestrator_that_is_down(kit, port):
    checks = table(kit)
    assert checks["port"].level == "error"
    assert checks["port"].result == f"localhost:{port}: Connection refused"
    assert "orchestrator" not in checks
    check_orchestrator(kit, check_kit(kit))  # a site waits for it


def test_a_proxy_whose_orchestrator_is_down_is_waited_for_too(kit, port):
    def hang_up(listener):
        with contextlib.suppress(OSError):
            while True:
                listener.accept()[0].close()

    with socket.create_server(("127.0.0.1", port)) as listener:
        threading.Thread(target=hang_up, args=(listener,), daemon=True).start()
        checks = table(kit)
        assert checks["port"].result.endswith("but closes it before it identifies itself")
        assert "orchestrator" not in checks
        check_orchestrator(kit, check_kit(kit))
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("who", "name", "trusts", "result"),
    [
        (
            "theirs/kits/orchestrator",
            "server",
            None,
            "its certificate is not for this consortium (",
        ),
        (
            "theirs/kits/orchestrator",
            "server",
            "ours/kits/north",
            "its certificate is not for this consortium (",
        ),
        ("ours/kits/valley", "client", None, "certificate is not valid for 'localhost'"),
        ("ours/kits/orchestrator", "server", "theirs/kits/north", "refuses this kit's"),
    ],
)
def test_a_stranger_in_the_orchestrators_place_stops_the_start(
    kit, consortia, port, who, name, trusts, result
):
    with orchestrator(port, consortia / who, name, trusts and consortia / trusts):
        check = table(kit)["orchestrator"]
        assert (check.level, result in check.result) == ("error", True), check
        with pytest.raises(Refused, match="wrong-orchestrator"):
            check_orchestrator(kit, check_kit(kit))


def test_an_unknown_host_name(kit, monkeypatch):
    def unknown(*arguments, **more):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(module.socket, "getaddrinfo", unknown)
    checks = table(kit)
    assert checks["name"].result == "localhost is unknown (Name or service not known)"
    assert "port" not in checks


def test_the_fingerprint_that_the_hospital_wrote_down(kit):
    root = check_kit(kit).root_sha256
    write_json(kit / "local" / "hospital.json", {"data": "/srv/tumours", "root_sha256": root})
    assert table(kit)["root"].level == "ok"


def test_another_version_a_full_disk_and_a_certificate_that_ends_soon(kit, monkeypatch):
    monkeypatch.setattr(module, "__version__", "9.9")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2, 1, 1))
    monkeypatch.setattr(module, "SOON", 400)
    checks = table(kit)
    package = checks["package"]
    assert (package.level, package.todo) == ("error", "install consortium 0.1.0")
    assert (checks["disk"].level, checks["disk"].result) == ("warning", "0 GB free")
    assert checks["certificate"].level == "warning"


def test_gpus_that_are_stated_and_seen(kit):
    two = ["RTX, 24 GiB", "RTX, 24 GiB"]
    assert table(kit)["gpus"].result == "0 stated; torch sees none"
    unstated = table(kit, machine(two, "550.1"))["gpus"]
    assert (unstated.level, unstated.result) == (
        "warning",
        "RTX, 24 GiB, RTX, 24 GiB; driver 550.1; none is stated",
    )
    own = {"data": "/srv/tumours", "gpus": 2, "gpu_memory": 24}
    write_json(kit / "local" / "hospital.json", own)
    assert table(kit, machine(two))["gpus"].level == "ok"
    missing = table(kit, machine(driver="550.1"))["gpus"]
    assert (missing.level, missing.result) == (
        "error",
        "local/hospital.json states 2, torch sees none; driver 550.1",
    )


def test_the_data_folder(kit):
    assert table(kit, machine(data=(0, 2)))["data"].level == "warning"
    wrong = table(kit, machine(data=(3, 0)))["data"]
    assert (wrong.level, wrong.result) == ("error", "/srv/tumours: 3 errors, 0 warnings")
    error = UsageError("missing-folder", "no such folder", "/srv/tumours", "check --data")
    assert table(kit, machine(data=error))["data"].result == "/srv/tumours: no such folder"
    write_json(kit / "local" / "hospital.json", {})
    assert table(kit)["data"].result == "no folder is named"


def test_the_orchestrators_own_port(consortia, port, tmp_path):
    kit = tmp_path / "orchestrator"
    shutil.copytree(consortia / "ours" / "kits" / "orchestrator", kit)
    assert table(kit)["port"].level == "ok"
    with socket.create_server(("127.0.0.1", port)):
        assert table(kit)["port"].result == f"{port}: Address already in use"
        with hold_kit(kit):
            assert table(kit)["port"].result == "this kit is running"


def test_the_command_prints_a_table_and_ends_with_what_is_red(consortium, kit, generated):
    write_json(kit / "local" / "hospital.json", {"data": str(generated / "north")})
    code, printed, errors = consortium("preflight", kit)
    assert code == 1
    assert "what to do" in printed
    assert errors == f"error not-ready: port, {kit}, see the table above\n"
