"""The coordinator's day: kits for all, one more hospital, a rerun, a passphrase."""

import json
import os
import shutil
import stat
import subprocess
import sys

import pytest
from tests.conftest import ROOT

from consortium.cli.provision import app
from consortium.cli.run import run_app
from consortium.core.errors import EnvironmentProblem, Refused
from consortium.kits.verify import verify_kit
from consortium.membership import provisioning
from consortium.membership.provisioning import create

PROJECT = ROOT / "provisioning" / "project.yml"


@pytest.fixture
def project(tmp_path):
    shutil.copy(PROJECT, tmp_path / "project.yml")
    return tmp_path / "project.yml"


@pytest.fixture(scope="module")
def created(tmp_path_factory):
    """The coordinator's folder of the shipped project; its keys are made once."""
    out = tmp_path_factory.mktemp("created") / "out"
    create(PROJECT, out)
    return out


@pytest.fixture
def made(created, project, tmp_path):
    """A copy of that folder, in which a test may add and change."""
    shutil.copytree(created, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def provision(capsys, project, tmp_path):
    """Runs `scripts/provision` in this process; returns exit code, stdout and stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            run_app(app, [*arguments, "--out", str(tmp_path / "out")])
        return (ended.value.code, *capsys.readouterr())

    return run


def contents(folder):
    return {
        path.relative_to(folder): (path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_kits_and_keys_are_private_and_a_rerun_changes_no_byte(provision, project, tmp_path):
    code, printed, errors = provision("create", "--project", str(project))
    assert (code, errors) == (0, "")
    out = tmp_path / "out"
    before = contents(out)
    secrets = [path for path in before if path.suffix == ".key" or path.name == "state.json"]
    assert len(secrets) == 13
    assert {before[path][1] for path in secrets} == {0o600}
    assert {stat.S_IMODE(kit.stat().st_mode) for kit in (out / "kits").iterdir()} == {0o700}
    assert before[out.joinpath("state.json").relative_to(out)][0].count(b"PRIVATE KEY") > 12
    root_sha256 = verify_kit(out / "kits" / "north").root_sha256
    assert root_sha256 in printed
    code, printed, errors = provision("create", "--project", str(project))
    assert (code, errors) == (0, "")
    assert "unchanged" in printed
    assert contents(out) == before


def test_a_hospital_and_a_person_are_added_and_every_other_kit_stays(provision, project, made):
    kits = made / "kits"
    before = contents(kits)
    code, printed, errors = provision(
        "add", "hospital", "fen", "--org", "fen_hospital", "--project", str(project)
    )
    assert (code, errors) == (0, "")
    assert "hospital fen has no org_admin of its organisation, fen_hospital" in printed
    code, _, errors = provision(
        *("add", "admin", "steward@fen.example", "--org", "fen_hospital", "--role", "org_admin"),
        *("--project", str(project)),
    )
    assert (code, errors) == (0, "")
    after = contents(kits)
    assert {path: after[path] for path in before} == before
    assert {path.parts[0] for path in set(after) - set(before)} == {"fen", "steward@fen.example"}
    roots = {verify_kit(kit).root_sha256 for kit in kits.iterdir()}
    assert len(roots) == 1
    assert "name: fen, type: client, org: fen_hospital" in project.read_text()
    assert provision("create", "--project", str(project))[0] == 0
    assert contents(kits) == after


def test_what_cannot_be_added_changes_nothing(provision, project, created, tmp_path):
    code, _, errors = provision(
        "add", "hospital", "fen", "--org", "fen_hospital", "--project", str(project)
    )
    assert (code, errors.split(":")[0]) == (2, "error no-state")
    shutil.copytree(created, tmp_path / "out")
    before = contents(tmp_path)
    for name, org, wanted in (
        ("north", "north_university_hospital", (3, "error exists")),
        ("fen", "fen hospital", (2, "error bad-project")),
    ):
        code, _, errors = provision(
            "add", "hospital", name, "--org", org, "--project", str(project)
        )
        assert (code, errors.split(":")[0]) == wanted
    assert contents(tmp_path) == before


def test_where_provisioning_fails_the_project_file_stays(project, made, tmp_path, monkeypatch):
    before = contents(tmp_path)

    def fail(*arguments):
        raise EnvironmentProblem("provisioning-failed", "no more room")

    monkeypatch.setattr(provisioning, "provision", fail)
    entry = {"name": "fen", "type": "client", "org": "fen_hospital"}
    with pytest.raises(EnvironmentProblem):
        provisioning.add(project, made, entry)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("old", "new", "change"),
    [
        (
            "org: valley_hospital}",
            "org: vale_trust}",
            "organisation of valley: valley_hospital in the certificate, vale",
        ),
        ("role: lead", "role: member", "lead in the certificate, member in the project"),
        ("[127.0.0.1]", "[192.0.2.1]", "127.0.0.1, localhost in the certificate, 192.0.2.1, "),
    ],
)
def test_a_change_that_the_old_certificate_contradicts_is_refused(
    provision, project, made, old, new, change
):
    before = contents(made)
    project.write_text(project.read_text().replace(old, new, 1))
    code, _, errors = provision("create", "--project", str(project))
    assert code == 3
    assert errors.startswith("error changed-participant: ")
    assert change in errors
    assert contents(made) == before


def test_another_name_of_the_project_is_refused(provision, project, made):
    project.write_text(project.read_text().replace("name: consortium\n", "name: other\n", 1))
    code, _, errors = provision("create", "--project", str(project))
    assert code == 3
    assert errors.startswith("error changed-project: the root certificate is for consortium, ")


def test_another_port_makes_the_kits_again_but_none_that_was_started(project, made):
    out = made
    certificate = (out / "kits" / "north" / "startup" / "client.crt").read_bytes()
    project.write_text(project.read_text().replace("fed_learn_port: 8002", "fed_learn_port: 8443"))
    (out / "kits" / "valley" / "log.txt").write_text("left by a run")
    with pytest.raises(Refused, match="kit-in-use"):
        create(project, out)
    assert "8002" in (out / "kits" / "north" / "startup" / "fed_client.json").read_text()
    (out / "kits" / "valley" / "log.txt").unlink()
    made = {kit.participant.name: kit.made for kit in create(project, out).kits}
    assert made["north"] == "again"
    assert "8443" in (out / "kits" / "north" / "startup" / "fed_client.json").read_text()
    assert (out / "kits" / "north" / "startup" / "client.crt").read_bytes() == certificate


def test_who_left_the_project_is_named_with_the_end_of_the_kit(project, made):
    lines = [line for line in project.read_text().splitlines() if "name: valley," not in line]
    project.write_text("\n".join(lines))
    notes = create(project, made).notes
    [note] = [note for note in notes if note.startswith("valley is no longer in the project")]
    assert "FLARE cannot revoke it" in note


def test_a_passphrase_seals_the_state(provision, project, tmp_path, monkeypatch):
    monkeypatch.setenv("CONSORTIUM_PASSPHRASE", "correct horse")
    code, printed, _ = provision("create", "--project", str(project), "--passphrase")
    assert code == 0
    assert "sealed with your passphrase" in printed
    state = tmp_path / "out" / "state.json"
    assert set(json.loads(state.read_text())) == {"salt", "sealed"}
    before = contents(tmp_path / "out")
    monkeypatch.setenv("CONSORTIUM_PASSPHRASE", "wrong horse")
    code, _, errors = provision("create", "--project", str(project))
    assert (code, errors.split(":")[0]) == (3, "error wrong-passphrase")
    monkeypatch.delenv("CONSORTIUM_PASSPHRASE")
    code, _, errors = provision("create", "--project", str(project))
    assert (code, errors.split(":")[0]) == (2, "error no-passphrase")
    assert contents(tmp_path / "out") == before
    monkeypatch.setenv("CONSORTIUM_PASSPHRASE", "correct horse")
    assert provision("create", "--project", str(project))[0] == 0
    assert contents(tmp_path / "out") == before
    arguments = ("add", "hospital", "fen", "--org", "fen_hospital", "--project", str(project))
    assert provision(*arguments)[0] == 0
    assert set(json.loads(state.read_text())) == {"salt", "sealed"}
    assert verify_kit(tmp_path / "out" / "kits" / "fen").findings == []


def test_status_shows_every_certificate_and_the_days_it_has_left(provision, created, tmp_path):
    code, _, errors = provision("status")
    assert (code, errors.split(":")[0]) == (2, "error no-kits")
    shutil.copytree(created, tmp_path / "out")
    code, printed, errors = provision("status")
    assert (code, errors) == (0, "")
    assert " 359 " in printed
    assert " 1824 " in printed
    assert all(name in printed for name in ("root", "orchestrator", "hillside"))


@pytest.mark.flare
def test_flares_own_command_makes_the_same_kits_with_our_builder(tmp_path):
    command = ["provision", "-p", str(PROJECT), "-w", str(tmp_path), "--force"]
    done = subprocess.run(
        [sys.executable, "-m", "nvflare.cli", *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    kits = list((tmp_path / "consortium" / "prod_00").iterdir())
    assert len(kits) == 12
    assert all(verify_kit(kit).findings == [] for kit in kits)
    state = tmp_path / "consortium" / "state" / "cert.json"
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
