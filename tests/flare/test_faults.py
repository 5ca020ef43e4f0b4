"""Faults between hospitals, in a real federation: what people see, and what must not happen."""

import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import psutil
import pytest
from nvflare.fuel.hci.client import file_transfer
from nvflare.fuel.utils.zip_utils import zip_directory_to_file
from tests.conftest import JOB, TINY
from tests.flare.conftest import OPEN, wait_for_end
from tests.kits.conftest import root_key, sign_again

import consortium
from consortium.core.errors import EnvironmentProblem
from consortium.core.files import write_json
from consortium.flare.session import open_session
from consortium.kits.hospital import HOSPITAL
from consortium.kits.site_defaults import AUTHORIZATION
from consortium.membership import provisioning
from consortium.runs import federation
from consortium.runs.status import describe
from consortium.study.job_folder import export_job, seal_job

pytestmark = pytest.mark.flare

HOSPITALS = ["harbour", "north"]
NO_LEAD_OF_COORDINATION = {
    **AUTHORIZATION["permissions"],
    "lead": {**AUTHORIZATION["permissions"]["lead"], "submit_job": "not o:coordination"},
}


@pytest.fixture(scope="module")
def workspace(generated, tmp_path_factory):
    """A federation of two hospitals; north refuses jobs of the coordination's people."""
    data = tmp_path_factory.mktemp("data")
    for name in HOSPITALS:
        shutil.copytree(generated / name, data / name)
    folder = tmp_path_factory.mktemp("federation") / "run"
    try:
        federation.up(folder, data=data, own=OPEN)
        stop(folder, "north")
        policy = {"format_version": "1.0", "permissions": NO_LEAD_OF_COORDINATION}
        write_json(folder / "machines" / "north" / "local" / "authorization.json", policy)
        federation.up(folder)
        yield folder
    finally:
        federation.down(folder)


def stop(folder, name):
    """Kills a machine's process and waits until it is gone."""
    [process] = [m.process for m in federation.status(folder) if m.name == name and m.process]
    killed = psutil.Process(process)
    killed.kill()
    killed.wait(10)


@pytest.fixture
def researcher(workspace):
    with open_session(federation.admin_kit(workspace, federation.RESEARCHER)) as session:
        yield session


def job_for(tmp_path, *hospitals, with_package=False, name="job"):
    out = tmp_path / "-".join([name, *hospitals])
    export_job(
        JOB,
        out,
        hospitals=hospitals,
        assignments=TINY,
        quorum=["retry_delay=0.1"],
        with_package=with_package,
    )
    return out


def test_a_hospital_that_excludes_the_submitters_organisation_fails_the_run_that_declares_it(
    researcher, tmp_path
):
    job_id = researcher.submit(job_for(tmp_path, *HOSPITALS))
    wait_for_end(researcher, job_id)
    run = describe(researcher.job(job_id))
    assert run.state == "failed"
    assert any(reason.startswith("north refused the job: ") for reason in run.reasons)


def test_a_run_that_does_not_declare_it_goes_on_without_and_says_so(researcher, tmp_path):
    for number in range(5):
        job_id = researcher.submit(job_for(tmp_path, "harbour", name=f"job-{number}"))
        wait_for_end(researcher, job_id)
        record = researcher.job(job_id)
        # FLARE drops a hospital that answers its resource check too late, and records nothing.
        if any(str(line).startswith("north: ") for line in record["job_deploy_detail"]):
            break
    run = describe(record)
    assert run.state == "finished"
    assert any(reason.startswith("north refused the job: ") for reason in run.reasons), record


def test_a_job_that_brings_code_runs_nowhere(researcher, tmp_path, workspace):
    job = job_for(tmp_path, "harbour", with_package=True)
    (job / "app" / "custom" / "planted.py").write_text("")
    seal_job(job)
    job_id = researcher.submit(job)
    wait_for_end(researcher, job_id)
    run = describe(researcher.job(job_id))
    assert run.state == "failed"
    assert run.reasons[0].startswith("brings-code: researcher@consortium.example (lead, ")
    assert not list((workspace / "machines").rglob("planted.py"))


def test_a_hospital_that_is_added_late_joins_and_the_run_that_waited_for_it_starts(
    researcher, workspace, generated, tmp_path
):
    job_id = researcher.submit(job_for(tmp_path, "fen", "harbour"))
    deadline = time.monotonic() + 120
    while "hospital fen is not connected" not in "".join(describe(researcher.job(job_id)).reasons):
        assert time.monotonic() < deadline, researcher.job(job_id)
        time.sleep(0.5)
    coordinator = workspace / "coordinator"
    entry = {"name": "fen", "type": "client", "org": "fen"}
    provisioning.add(coordinator / "project.yml", coordinator, entry)
    machine = workspace / "machines" / "fen"
    shutil.copytree(coordinator / provisioning.KITS / "fen", machine)
    write_json(machine / HOSPITAL, {"data": str(generated / "valley"), **OPEN})
    before = {m.name: m.process for m in federation.status(workspace) if m.name != "fen"}
    federation.up(workspace)
    assert wait_for_end(researcher, job_id) == "FINISHED:COMPLETED"
    after = {m.name: m.process for m in federation.status(workspace)}
    assert {name: after[name] for name in before} == before


def test_a_hospital_with_another_version_of_the_package_refuses_and_is_named(
    researcher, workspace, tmp_path, monkeypatch
):
    package = tmp_path / "other" / "consortium"
    shutil.copytree(Path(consortium.__file__).parent, package)
    version = (package / "__init__.py").read_text().replace(consortium.__version__, "9.9")
    (package / "__init__.py").write_text(version)
    stop(workspace, "harbour")
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(package.parent))
        federation.up(workspace)
    job_id = researcher.submit(job_for(tmp_path, "harbour"))
    wait_for_end(researcher, job_id)
    run = describe(researcher.job(job_id))
    stop(workspace, "harbour")
    federation.up(workspace)
    assert run.state in ("incomplete", "failed")
    assert any("harbour" in reason and "other-version" in reason for reason in run.reasons), run


def test_a_hospital_that_refuses_to_start_is_named_with_its_sentence(workspace):
    stop(workspace, "north")
    file = workspace / "machines" / "north" / "startup" / "stop_fl.sh"
    whole = file.read_bytes()
    file.write_bytes(whole + b"\n")
    with pytest.raises(EnvironmentProblem) as raised:
        federation.up(workspace)
    assert raised.value.code == "not-up"
    assert raised.value.what == "north ended"
    assert "error bad-kit: changed, differs from the file that was signed" in raised.value.todo
    file.write_bytes(whole)
    assert all(machine.connected for machine in federation.up(workspace))


def run_by_hand(kit, *, seconds=60):
    """Starts a kit as its hospital does and waits for it to end."""
    binaries = Path(sys.executable).parent
    return subprocess.run(
        [kit / "startup" / "sub_start.sh", "--once"],
        env={**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def test_a_copy_of_a_kit_that_runs_does_not_take_over(workspace, researcher, tmp_path):
    copy = tmp_path / "copy" / "harbour"
    shutil.copytree(workspace / "coordinator" / provisioning.KITS / "harbour", copy)
    [running] = [m.process for m in federation.status(workspace) if m.name == "harbour"]
    ended = run_by_hand(copy)
    assert ended.returncode != 0
    assert "error not-admitted: the orchestrator does not admit this kit; " in ended.stderr
    message = "kit-in-use: harbour is connected and a copy of its kit tries to register"
    assert message in (workspace / "machines" / "orchestrator.log").read_text()
    job_id = researcher.submit(job_for(tmp_path, "harbour"))
    assert wait_for_end(researcher, job_id) == "FINISHED:COMPLETED"
    [after] = [m for m in federation.status(workspace) if m.name == "harbour"]
    assert (after.process, after.connected) == (running, True)


def test_a_kit_of_another_consortium_does_not_start_beside_a_running_orchestrator(
    workspace, tmp_path
):
    provisioning.create(workspace / "coordinator" / "project.yml", tmp_path / "other")
    ended = run_by_hand(tmp_path / "other" / provisioning.KITS / "harbour")
    assert ended.returncode == 78
    assert ended.stderr.startswith("error wrong-orchestrator: its certificate is not for this ")
    assert ended.stderr.count("\n") == 1


def test_a_kit_that_calls_the_orchestrator_by_a_name_that_it_has_not_does_not_start(
    workspace, tmp_path
):
    coordinator = tmp_path / "coordinator"
    shutil.copytree(workspace / "coordinator", coordinator)
    kit = coordinator / provisioning.KITS / "harbour"
    file = kit / "startup" / "fed_client.json"
    file.write_text(file.read_text().replace("localhost:", "127.1:"))
    sign_again(kit, root_key(coordinator))
    ended = run_by_hand(kit)
    assert ended.returncode == 78
    assert ended.stderr.startswith("error wrong-orchestrator: its certificate is not for this ")
    assert "127.1'" in ended.stderr


def test_a_second_orchestrator_does_not_start_on_the_port_of_the_first(workspace, tmp_path):
    kit = tmp_path / "orchestrator"
    shutil.copytree(workspace / "coordinator" / provisioning.KITS / "orchestrator", kit)
    ended = run_by_hand(kit)
    assert ended.returncode == 78
    assert ended.stderr.startswith("error port-in-use: ")


def test_a_hospital_whose_data_folder_is_missing_is_named_with_the_code(
    researcher, workspace, tmp_path
):
    own = workspace / "machines" / "harbour" / HOSPITAL
    before = own.read_bytes()
    write_json(own, {"data": str(tmp_path / "gone")})
    stop(workspace, "harbour")
    federation.up(workspace)
    job_id = researcher.submit(job_for(tmp_path, "harbour"))
    wait_for_end(researcher, job_id)
    own.write_bytes(before)
    run = describe(researcher.job(job_id))
    assert run.state in ("incomplete", "failed")
    assert any("harbour" in reason and "missing-folder" in reason for reason in run.reasons), run
    assert str(tmp_path) not in str(researcher.job(job_id))
    errors = list((workspace / "machines" / "harbour" / "consortium").rglob("errors.log"))
    assert any(str(tmp_path / "gone") in path.read_text() for path in errors)


def test_an_archive_that_would_write_outside_never_runs_and_the_submitter_learns_why(
    researcher, workspace, tmp_path, monkeypatch
):
    entry = "job/../../outside.txt"

    def zip_with_more(root, folder, file):
        zip_directory_to_file(root, folder, file)
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr(entry, "planted")

    monkeypatch.setattr(file_transfer, "zip_directory_to_file", zip_with_more)
    job_id = researcher.submit(job_for(tmp_path, "harbour"))
    run = describe(researcher.job(job_id))
    start = f"unsafe-archive: the entry would land outside of the job's folder, '{entry}', "
    assert (run.state, [reason.startswith(start) for reason in run.reasons]) == ("failed", [True])
    time.sleep(3)
    assert describe(researcher.job(job_id)) == run
    assert not list(workspace.rglob("outside.txt"))


def test_hospitals_wait_for_an_orchestrator_that_is_down(workspace):
    stop(workspace, "orchestrator")
    stop(workspace, "north")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(federation, "_known", lambda folder: ["north"])
        patch.setattr(federation, "_wait", lambda folder, known: [])
        federation.up(workspace)
    running = {machine.name for machine in federation.status(workspace) if machine.process}
    assert "north" in running
    assert "orchestrator" not in running
    federation.up(workspace)
    assert all(machine.connected for machine in federation.status(workspace))
