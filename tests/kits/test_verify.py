"""Findings about a kit that is not as the coordinator made it."""

import base64
import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from tests.conftest import ROOT
from tests.kits.conftest import root_key, sign_again
from tests.waiting import without_waiting

from consortium.core.errors import Refused, UsageError
from consortium.kits import verify
from consortium.kits.lock import hold_kit
from consortium.kits.manifest import MANIFEST, fingerprint
from consortium.kits.verify import verify_kit
from consortium.membership.provisioning import create


def codes(kit, *arguments):
    return [(finding.code, finding.file) for finding in verify_kit(kit, *arguments).findings]


def test_every_kit_as_made_is_in_order(provisioned):
    kits = list((provisioned / "kits").iterdir())
    assert len(kits) == 12
    for kit in kits:
        report = verify_kit(kit)
        assert report.findings == []
        assert report.manifest.participant == kit.name
        assert not report.compared


def test_every_shipped_file_is_listed_and_nothing_of_the_hospitals_own(kit):
    files = set(verify_kit(kit).manifest.files)
    present = {
        path.relative_to(kit).as_posix()
        for folder in ("startup", "local")
        for path in (kit / folder).rglob("*")
    }
    assert present - files == {MANIFEST, "local/hospital.json"}
    assert {"startup/client.key", "startup/sub_start.sh", "local/privacy.json"} <= files


def test_one_changed_byte_in_any_file_is_named(kit):
    for name in verify_kit(kit).manifest.files:
        path = kit / name
        whole = path.read_bytes()
        path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        if name in (verify.ROOT, "startup/client.crt"):
            with pytest.raises(Refused, match="no readable certificate"):
                verify_kit(kit)
        else:
            assert ("changed", name) in codes(kit)
        path.write_bytes(whole)
    assert codes(kit) == []


def test_missing_extra_and_linked_files_and_open_keys_are_named(kit):
    (kit / "startup" / "stop_fl.sh").unlink()
    (kit / "local" / "custom").mkdir()
    (kit / "local" / "custom" / "more.py").write_text("")
    (kit / "local" / "log_config.json.default").rename(kit / "elsewhere")
    (kit / "local" / "log_config.json.default").symlink_to(kit / "elsewhere")
    (kit / "startup" / "client.key").chmod(0o640)
    assert sorted(codes(kit)) == [
        ("extra", "local/custom"),
        ("extra", "local/custom/more.py"),
        ("link", "local/log_config.json.default"),
        ("missing", "startup/stop_fl.sh"),
        ("open-key", "startup/client.key"),
    ]


def test_a_hospital_may_edit_its_own_files(kit):
    (kit / "local" / "hospital.json").write_text('{"data": "/srv/tumours"}')
    shutil.copy(kit / "local" / "authorization.json.default", kit / "local" / "authorization.json")
    (kit / "log.txt").write_text("what a run leaves")
    assert codes(kit) == []


def test_the_fingerprint_reveals_a_forged_kit(provisioned, tmp_path):
    create(ROOT / "provisioning" / "project.yml", tmp_path / "forged")
    forged = tmp_path / "forged" / "kits" / "north"
    root = x509.load_pem_x509_certificate((provisioned / "kits/north" / verify.ROOT).read_bytes())
    expected = fingerprint(root)
    assert codes(forged) == []
    assert codes(forged, expected) == [("other-root", verify.ROOT)]
    colons = ":".join(expected[i : i + 2] for i in range(0, 64, 2)).upper()
    assert codes(provisioned / "kits" / "north", colons) == []
    assert verify_kit(provisioned / "kits" / "north", colons).compared
    (forged / "local" / "hospital.json").write_text(json.dumps({"root_sha256": colons}))
    assert codes(forged) == [("other-root", verify.ROOT)]


def test_the_fingerprint_is_the_digest_of_the_certificates_der_form(provisioned):
    pem = (provisioned / "kits" / "north" / verify.ROOT).read_text()
    der = ssl.PEM_cert_to_DER_cert(pem)
    assert fingerprint(x509.load_pem_x509_certificate(pem.encode())) == sha256(der).hexdigest()


def test_the_signature_is_of_the_dsse_encoding_whoever_verifies_it(kit):
    envelope = json.loads((kit / MANIFEST).read_text())
    payload = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"].encode()
    encoded = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    [signature] = envelope["signatures"]
    root = x509.load_pem_x509_certificate((kit / verify.ROOT).read_bytes())
    root.public_key().verify(base64.b64decode(signature["sig"]), encoded, PKCS1v15(), SHA256())
    statement = json.loads(payload)
    assert kind == b"application/vnd.in-toto+json"
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert {tuple(subject) for subject in statement["subject"]} == {("digest", "name")}


def test_a_list_that_was_rewritten_does_not_verify(kit):
    envelope = json.loads((kit / MANIFEST).read_text())
    statement = json.loads(base64.b64decode(envelope["payload"]))
    statement["subject"].pop()
    envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    (kit / MANIFEST).write_text(json.dumps(envelope))
    with pytest.raises(Refused) as refused:
        verify_kit(kit)
    assert refused.value.code == "bad-signature"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"payload": 3}', '{"signatures": []}'])
def test_rubbish_in_place_of_the_list(kit, text):
    (kit / MANIFEST).write_text(text)
    with pytest.raises(Refused) as refused:
        verify_kit(kit)
    assert refused.value.code == "bad-manifest"


def test_a_kit_of_plain_flare_is_not_signed(kit):
    (kit / MANIFEST).unlink()
    with pytest.raises(Refused) as refused:
        verify_kit(kit)
    assert refused.value.code == "no-manifest"


def test_the_certificate_of_another_hospital(kit, provisioned):
    for name in ("client.crt", "client.key"):
        shutil.copy(provisioned / "kits" / "valley" / "startup" / name, kit / "startup" / name)
    findings = verify_kit(kit).findings
    assert ("wrong-certificate", "startup/client.crt") in [(f.code, f.file) for f in findings]
    assert any("issued to valley, but the kit is for north" in f.detail for f in findings)


def test_a_key_that_is_not_the_certificates(kit, provisioned):
    shutil.copy(provisioned / "kits/valley/startup/client.key", kit / "startup" / "client.key")
    assert ("wrong-key", "startup/client.key") in codes(kit)


@pytest.mark.parametrize(
    ("days", "detail"), [(361, "it ended on"), (-1, "check this machine's clock")]
)
def test_an_expired_certificate_and_a_wrong_clock(kit, monkeypatch, days, detail):
    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=days)

    monkeypatch.setattr(verify, "datetime", Clock)
    findings = verify_kit(kit).findings
    assert {finding.code for finding in findings} == {"expired"}
    assert all(detail in finding.detail for finding in findings)
    assert verify_kit(kit).valid_until > datetime.now(UTC)


def start(kit, script="sub_start.sh", **environment):
    python = Path(sys.executable).parent
    return subprocess.run(
        [kit / "startup" / script, "--once"],
        env={
            "PATH": f"{python}:{os.environ['PATH']}",
            "HOME": os.environ["HOME"],
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.flare
def test_a_kit_whose_certificate_has_expired_does_not_start(kit, provisioned):
    root = root_key(provisioned)
    path = kit / "startup" / "client.crt"
    old = x509.load_pem_x509_certificate(path.read_bytes())
    ended = datetime.now(UTC) - timedelta(days=2)
    expired = (
        x509.CertificateBuilder(old.issuer, old.subject, old.public_key(), old.serial_number)
        .not_valid_before(ended - timedelta(days=360))
        .not_valid_after(ended)
    )
    for extension in old.extensions:
        expired = expired.add_extension(extension.value, extension.critical)
    path.write_bytes(expired.sign(root, SHA256()).public_bytes(Encoding.PEM))
    sign_again(kit, root)
    process = start(kit)
    assert process.returncode == 78
    assert process.stderr == (
        f"error bad-kit: expired, it ended on {ended:%Y-%m-%d};"
        f" ask for a new kit, {path},"
        f" run consortium verify-kit {kit} and ask the coordinator\n"
    )


@pytest.mark.flare
def test_a_kit_with_anothers_certificate_does_not_start(kit, provisioned):
    for name in ("client.crt", "client.key"):
        shutil.copy(provisioned / "kits" / "valley" / "startup" / name, kit / "startup" / name)
    ended = start(kit)
    assert ended.returncode == 78
    assert ended.stderr.startswith("error bad-kit: ")
    assert ended.stderr.count("\n") == 1


@pytest.mark.flare
@pytest.mark.parametrize("script", ["start.sh", "sub_start.sh"])
def test_an_orchestrator_whose_port_is_taken_does_not_start(provisioned, tmp_path, script):
    kit = tmp_path / "orchestrator"
    shutil.copytree(provisioned / "kits" / "orchestrator", kit)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file = kit / "startup" / "fed_server.json"
        file.write_text(file.read_text().replace("8002", str(port)))
        sign_again(kit, root_key(provisioned))
        ended = start(kit, script)
    assert ended.returncode == 78
    assert ended.stderr.startswith(f"error port-in-use: {port}: Address already in use, {kit}, ")
    assert not (kit / "pid.fl").exists()


@pytest.mark.flare
@pytest.mark.parametrize("script", ["start.sh", "sub_start.sh"])
def test_a_changed_kit_does_not_start_and_says_why(kit, script):
    path = kit / "startup" / "fed_client.json"
    path.write_text(path.read_text().replace("localhost", "elsewhere"))
    ended = start(kit, script)
    assert ended.returncode == 78
    assert ended.stderr == (
        f"error bad-kit: changed, differs from the file that was signed, {path},"
        f" run consortium verify-kit {kit} and ask the coordinator\n"
    )
    assert not (kit / "pid.fl").exists()


@pytest.mark.flare
def test_a_kit_that_runs_does_not_start_again(kit):
    with hold_kit(kit):
        ended = start(kit)
    assert ended.returncode == 78
    assert ended.stderr == (
        f"error kit-in-use: this kit is already running on this machine, {kit}, stop it first\n"
    )


@pytest.mark.flare
def test_without_the_package_a_kit_says_so(kit, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin" / "python3").chmod(0o755)
    ended = start(kit, PATH=f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert ended.returncode == 78
    assert ended.stderr.startswith(
        f"error package-missing: consortium is not installed for {tmp_path}/bin/python3,"
    )


def test_the_command_names_what_is_wrong(consortium, kit):
    code, printed, errors = consortium("verify-kit", kit)
    assert (code, errors) == (0, "")
    assert printed.startswith("north (client, north_university_hospital) in consortium, version ")
    assert "compare its fingerprint with the one that the coordinator gives you" in printed
    (kit / "startup" / "stop_fl.sh").write_text("")
    code, printed, errors = consortium("verify-kit", kit, "--root-sha256", "00" * 32)
    assert code == 1
    assert "changed: startup/stop_fl.sh: differs from the file that was signed" in printed
    assert "other-root: startup/rootCA.pem" in printed
    assert errors.startswith("error bad-kit: 2 findings, ")
    code, printed, errors = consortium("verify-kit", kit.parent)
    assert (code, printed) == (3, "")
    assert errors.startswith("error no-kit: no readable certificate, ")


def test_a_bad_file_of_the_hospital_is_named(consortium, kit):
    (kit / "local" / "hospital.json").write_text('{"date": "/srv"}')
    code, _, errors = consortium("verify-kit", kit)
    assert code == 2
    assert errors.startswith("error bad-hospital-file: date: Extra inputs are not permitted, ")


@pytest.mark.parametrize(
    "name", ["startup/client.crt", "startup/rootCA.pem", "startup/client.key", MANIFEST]
)
@pytest.mark.parametrize("kind", ["pipe", "device", "sparse"])
def test_a_file_of_a_kit_that_is_none_or_is_huge_is_refused_before_it_is_read(kit, name, kind):
    path = kit / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.touch()
        os.truncate(path, 12 << 30)
    with without_waiting():
        if name == "startup/client.key":
            assert ("too-large" if kind == "sparse" else "link", name) in codes(kit)
            return
        with pytest.raises(Refused, match=r"no-kit|bad-manifest"):
            verify_kit(kit)


@pytest.mark.parametrize("name", ["startup/sub_start.sh", "local/hospital.json", "local/new.json"])
def test_a_sparse_file_is_named_and_not_read(kit, name):
    (kit / name).touch()
    os.truncate(kit / name, 12 << 30)
    with contextlib.suppress(UsageError):
        assert {code for code, file in codes(kit) if file == name} == {"too-large"}


@pytest.mark.parametrize("name", ["local", "startup"])
def test_a_linked_folder_is_refused_although_the_files_in_it_are_as_signed(kit, name):
    (kit / name).rename(kit.parent / "elsewhere")
    (kit / name).symlink_to(kit.parent / "elsewhere")
    assert codes(kit)[0] == ("link", name)


@pytest.mark.parametrize("name", ["local/custom", "startup/more", "local/custom/nvflare"])
def test_a_folder_that_nobody_signed_is_refused_even_if_it_is_empty(kit, name):
    (kit / name).mkdir(parents=True)
    assert ("extra", name) in codes(kit)
