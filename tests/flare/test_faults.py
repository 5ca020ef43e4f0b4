"""What goes wrong between hospitals, started for real: what is seen, and what must not happen."""

import shutil
import time
from pathlib import Path

import psutil
import pytest
from tests.conftest import JOB, TINY
from tests.flare.conftest import wait_for_end

import consortium
from consortium import federation, provisioning
from consortium.errors import EnvironmentProblem
from consortium.files import write_json
from consortium.flare.session import open_session
from consortium.jobs import bundle_job
from consortium.kits.hospital import HOSPITAL
from consortium.kits.shipped import AUTHORIZATION
from consortium.runs import describe

HOSPITALS = ["harbour", "north"]
NO_LEAD_OF_COORDINATION = {
    **AUTHORIZATION["permissions"],
    "lead": {**AUTHORIZATION["permissions"]["lead"], "submit_job": "not o:coordination"},
}


@pytest.fixture(scope="module")
def workspace(generated, tmp_path_factory):
    """A federation of two hospitals, of which north takes no job of coordination's people."""
    data = tmp_path_factory.mktemp("data")
    for name in HOSPITALS:
        shutil.copytree(generated / name, data / name)
    place = tmp_path_factory.mktemp("federation") / "run"
    federation.up(place, data=data)
    stop(place, "north")
    policy = {"format_version": "1.0", "permissions": NO_LEAD_OF_COORDINATION}
    write_json(place / "machines" / "north" / "local" / "authorization.json", policy)
    federation.up(place)
    yield place
    federation.down(place)


def stop(place, name):
    """Kills a machine's process and waits until it is gone."""
    [process] = [m.process for m in federation.status(place) if m.name == name and m.process]
    killed = psutil.Process(process)
    killed.kill()
    killed.wait(10)


@pytest.fixture
def researcher(workspace):
    with open_session(federation.admin_kit(workspace, federation.RESEARCHER)) as session:
        yield session


def job_for(tmp_path, *hospitals, with_package=False):
    out = tmp_path / "-".join(["job", *hospitals])
    bundle_job(JOB, out, hospitals=hospitals, assignments=TINY, with_package=with_package)
    return out


def test_a_hospital_that_excludes_the_submitters_organisation_fails_the_run_that_declares_it(
    researcher, tmp_path
):
    job_id = researcher.submit(job_for(tmp_path, *HOSPITALS))
    wait_for_end(researcher, job_id)
    run = describe(researcher.job(job_id))
    assert run.state == "failed"
    assert any(told.startswith("north did not take the job: ") for told in run.reasons)


def test_a_run_that_does_not_declare_it_goes_on_without_and_says_so(researcher, tmp_path):
    job_id = researcher.submit(job_for(tmp_path, "harbour"))
    wait_for_end(researcher, job_id)
    run = describe(researcher.job(job_id))
    assert run.state == "finished"
    assert any(told.startswith("north did not take the job: ") for told in run.reasons)


def test_a_job_that_brings_code_runs_nowhere(researcher, tmp_path, workspace):
    job = job_for(tmp_path, "harbour", with_package=True)
    (job / "app" / "custom" / "planted.py").write_text("")
    job_id = researcher.submit(job)
    wait_for_end(researcher, job_id)
    assert describe(researcher.job(job_id)).state == "failed"
    assert not list((workspace / "machines").rglob("planted.py"))


def test_a_hospital_that_is_added_late_joins_and_the_run_that_waited_for_it_starts(
    researcher, workspace, generated, tmp_path
):
    job_id = researcher.submit(job_for(tmp_path, "fen", "harbour"))
    until = time.monotonic() + 40
    while "hospital fen is not connected" not in "".join(describe(researcher.job(job_id)).reasons):
        assert time.monotonic() < until, researcher.job(job_id)
        time.sleep(0.5)
    coordinator = workspace / "coordinator"
    entry = {"name": "fen", "type": "client", "org": "fen"}
    provisioning.add(coordinator / "project.yml", coordinator, entry)
    machine = workspace / "machines" / "fen"
    shutil.copytree(coordinator / provisioning.KITS / "fen", machine)
    write_json(machine / HOSPITAL, {"data": str(generated / "valley")})
    before = {one.name: one.process for one in federation.status(workspace) if one.name != "fen"}
    federation.up(workspace)
    assert wait_for_end(researcher, job_id) == "FINISHED:COMPLETED"
    after = {one.name: one.process for one in federation.status(workspace)}
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
    assert any("harbour" in told and "other-version" in told for told in run.reasons), run


def test_a_hospital_that_refuses_to_start_is_named_with_its_sentence(workspace):
    stop(workspace, "north")
    file = workspace / "machines" / "north" / "startup" / "stop_fl.sh"
    whole = file.read_bytes()
    file.write_bytes(whole + b"\n")
    with pytest.raises(EnvironmentProblem) as raised:
        federation.up(workspace)
    assert raised.value.code == "not-up"
    assert raised.value.what == "north ended"
    assert "error bad-kit: changed, not as the coordinator signed it" in raised.value.todo
    file.write_bytes(whole)
    assert all(machine.connected for machine in federation.up(workspace))


def test_hospitals_wait_for_an_orchestrator_that_is_down(workspace):
    stop(workspace, "orchestrator")
    stop(workspace, "north")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(federation, "_known", lambda place: ["north"])
        patch.setattr(federation, "_wait", lambda place, known: [])
        federation.up(workspace)
    running = {machine.name for machine in federation.status(workspace) if machine.process}
    assert "north" in running
    assert "orchestrator" not in running
    federation.up(workspace)
    assert all(machine.connected for machine in federation.status(workspace))
