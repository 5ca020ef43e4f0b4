"""An orchestrator that does what it likes, and hospitals that do not, in a real federation."""

import json
import os
import uuid

import pytest
from scripts.benchmarks import signed_jobs
from scripts.benchmarks.signed_jobs import (
    Authority,
    archive_of,
    copy,
    meta_of,
    rename,
    sign,
    swap_signature,
    take_out,
)
from tests.conftest import JOB, TINY
from tests.flare.conftest import OPEN, wait_for_end
from tests.flare.dishonest import DishonestOrchestrator

from consortium.core.errors import Refused
from consortium.core.files import write_json
from consortium.core.json_files import read_json_object
from consortium.flare.session import open_session
from consortium.kits.site_defaults import AUTHORIZATION
from consortium.runs import federation
from consortium.runs.status import describe
from consortium.study.job_folder import CLIENT_CONFIG, SETTINGS, STUDY, export_job, seal_job

pytestmark = pytest.mark.flare

HOSPITALS = ["harbour", "north"]
NO_LEAD_OF_COORDINATION = {
    **AUTHORIZATION["permissions"],
    "lead": {**AUTHORIZATION["permissions"]["lead"], "submit_job": "not o:coordination"},
}


@pytest.fixture(scope="module")
def orchestrator(tmp_path_factory):
    return DishonestOrchestrator(tmp_path_factory.mktemp("dishonest") / "site")


@pytest.fixture(scope="module")
def gated(orchestrator, generated, tmp_path_factory):
    """A federation whose orchestrator is dishonest; north takes no jobs of the coordination."""
    data = tmp_path_factory.mktemp("data")
    for name in HOSPITALS:
        (data / name).symlink_to(generated / name)
    folder = tmp_path_factory.mktemp("federation") / "run"
    federation_up = pytest.MonkeyPatch()
    try:
        for key, value in orchestrator.environment(os.environ.get("PYTHONPATH", "")).items():
            federation_up.setenv(key, value)
        federation.up(folder, data=data, own=OPEN)
        federation.down(folder)
        policy = {"format_version": "1.0", "permissions": NO_LEAD_OF_COORDINATION}
        write_json(folder / "machines" / "north" / "local" / "authorization.json", policy)
        federation.up(folder)
        yield folder
    finally:
        federation.down(folder)
        federation_up.undo()


@pytest.fixture(scope="module")
def researcher(gated):
    startup = federation.admin_kit(gated, federation.RESEARCHER) / "startup"
    return signed_jobs.read_key(startup / "client.key"), startup / "client.crt"


@pytest.fixture(scope="module")
def signed(researcher, tmp_path_factory):
    return sign(new_job(tmp_path_factory.mktemp("signed") / "job"), researcher)


@pytest.fixture
def job(signed, tmp_path):
    return copy(signed, tmp_path / "job")


def new_job(folder, *assignments, **changes):
    changes = {"with_package": False, "hospitals": HOSPITALS[:1], **changes}
    export_job(JOB, folder, assignments=[*TINY, *assignments], **changes)
    return folder


def machine(gated, name):
    return gated / "machines" / name


def contents(folder):
    """What lies in a kit, but for what every message adds to."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "consortium" not in path.parts and "log" not in path.name
    }


def refused(answer):
    """The code of a refusal, which is all that came back."""
    assert "NVFLARE_ERROR" not in answer["body"] or answer["body"].count(":") == 1
    return answer["body"].removeprefix("NVFLARE_ERROR: ")


COMMANDS = [
    ("sys.shell", "cat local/hospital.json"),
    ("sys.shell", "head -c 60 startup/client.key"),
    ("sys.shell", "head -n 2 ../../../dataset.json"),
    ("sys.info", ""),
    ("sys.report_env", ""),
    ("sys.configure_site_log", "DEBUG"),
    ("train.configure_job_log", '{"version": 1, "formatters": {"x": {"()": "os.getcwd"}}}'),
    ("info.show_errors", ""),
    ("info.show_stats", ""),
    ("info.reset_errors", ""),
]


@pytest.mark.parametrize(("topic", "body"), COMMANDS)
def test_no_command_reads_a_hospital_whatever_headers_came(gated, orchestrator, topic, body):
    job_id = str(uuid.uuid4())
    for headers in ({}, {"job_id": job_id}):
        answer = orchestrator.send("harbour", topic, body, **headers)
        assert refused(answer) in ("refused-command", "invalid_request")


@pytest.mark.parametrize("topic", ["config_vars", "process_info", "list_pools"])
def test_flares_network_tools_see_nothing(gated, orchestrator, topic):
    assert orchestrator.send("harbour", topic, channel="_net_manager")["body"] is None


def test_a_report_of_resources_tells_of_gpus_only(gated, orchestrator):
    answer = orchestrator.send("harbour", "resource_manager.report_resources")
    assert json.loads(answer["body"]) == {"resources": []}


def test_nothing_is_deleted_that_is_no_job(gated, orchestrator):
    kit = machine(gated, "harbour")
    (kit / "kept").mkdir()
    (kit / "kept" / "file").write_text("kept")
    before = contents(kit)
    for name in ("kept", "local", "startup", "../north", str(kit / "kept"), "", None):
        for topic in ("train.delete_run", "train.abort", "train.notify_job_status"):
            assert refused(orchestrator.send("harbour", topic, job_id=name)) == "bad-job-id"
    assert contents(kit) == before


def deploy(orchestrator, hospital, job, job_id, meta=None, body=None):
    return orchestrator.send(
        hospital,
        "train.deploy",
        archive_of(job) if body is None else body,
        job_id=job_id,
        app_name="app",
        job_meta=meta or meta_of(job, job_id),
    )


def start(orchestrator, hospital, job_id, meta):
    return orchestrator.send(hospital, "train.start_job", {}, job_id=job_id, job_meta=meta)


def not_deployed(gated, orchestrator, job, meta=None, hospital="harbour"):
    """The code with which a hospital refuses a job, of which it keeps nothing."""
    job_id = str(uuid.uuid4())
    code = refused(deploy(orchestrator, hospital, job, job_id, meta and {**meta, "job_id": job_id}))
    assert not (machine(gated, hospital) / job_id).exists()
    assert refused(start(orchestrator, hospital, job_id, meta_of(job, job_id)))
    return code


def test_a_signed_job_cannot_be_mixed_shortened_renamed_or_rewritten(
    gated, orchestrator, researcher, job, signed, tmp_path
):
    other = sign(new_job(tmp_path / "other", "rounds=9"), researcher)
    swap_signature(job, SETTINGS, other)
    assert not_deployed(gated, orchestrator, job) == "altered-job"
    shorter = copy(signed, tmp_path / "shorter")
    take_out(shorter, STUDY)
    assert not_deployed(gated, orchestrator, shorter) == "not-exported"
    renamed = copy(signed, tmp_path / "renamed")
    rename(renamed, CLIENT_CONFIG, "config_fed_client.conf")
    assert not_deployed(gated, orchestrator, renamed) == "missing-file"
    meta = meta_of(signed)
    for change in ({"min_clients": 0}, {"consortium": {**meta["consortium"], "hospitals": []}}):
        assert not_deployed(gated, orchestrator, signed, {**meta, **change}) == "altered-job"
    launcher = {**meta, "launcher_spec": {"harbour": {"docker": {"image": "x"}}}}
    assert not_deployed(gated, orchestrator, signed, launcher) == "unknown-key"


def test_nobody_else_signs_a_job(gated, orchestrator, job, tmp_path):
    stranger = Authority(tmp_path / "people").person()
    assert not_deployed(gated, orchestrator, sign(job, stranger)) == "wrong-signer"
    for name, role in (("harbour", ""), ("orchestrator", "")):
        startup = machine(gated, name) / "startup"
        side = "client" if name == "harbour" else "server"
        own = signed_jobs.read_key(startup / f"{side}.key"), startup / f"{side}.crt"
        subject = signed_jobs.subject_of(own[1])
        assert subject[2] in (role, side)
        meta = meta_of(job, submitter=subject)
        assert not_deployed(gated, orchestrator, sign(job, own), meta) == "not-authorized"
    for file in job.rglob(".__nvfl_*"):
        file.unlink()
    assert not_deployed(gated, orchestrator, job) == "wrong-signer"


def test_a_researchers_job_builds_the_shells_only(gated, orchestrator, researcher, job, tmp_path):
    config = read_json_object(job / CLIENT_CONFIG)
    mark = tmp_path / "mark"
    inner = {"config_type": "dict", "path": "subprocess.Popen"}
    inner["args"] = {"args": ["touch", str(mark)]}
    builders = {"config_type": "dict", "builders": [inner]}
    path = "consortium.flare.provisioner.prepare_builders"
    config["components"] = [{"id": "x", "path": path, "args": {"project_dict": builders}}]
    write_json(job / CLIENT_CONFIG, config)
    seal_job(job)
    assert not_deployed(gated, orchestrator, sign(job, researcher)) == "other-configuration"
    code = sign(new_job(tmp_path / "code", with_package=True), researcher)
    assert not_deployed(gated, orchestrator, code) == "brings-code"
    assert not mark.exists()
    # The orchestrator, when it is honest, says so at once.
    with open_session(federation.admin_kit(gated, federation.RESEARCHER)) as session:
        run = describe(session.job(session.submit(job)))
        assert run.state == "failed"
        assert run.reasons[0].startswith("other-configuration: the job's configuration is not ")
        with pytest.raises(Refused, match="not-exported: this is a job's source"):
            session.submit(JOB)


def test_an_archive_is_judged_before_it_is_unpacked(gated, orchestrator, signed):
    for body in (b"rubbish", b"", b"PK\5\6" + bytes(18), archive_of(signed)[:-40]):
        job_id = str(uuid.uuid4())
        answer = deploy(orchestrator, "harbour", signed, job_id, body=body)
        assert refused(answer) in ("unsafe-archive", "not-exported")
        assert not (machine(gated, "harbour") / job_id).exists()


def test_a_hospital_keeps_to_its_own_policy_and_is_not_told_by_the_orchestrator(
    gated, orchestrator, signed
):
    assert not_deployed(gated, orchestrator, signed, hospital="north") == "not-authorized"
    meta = meta_of(signed, submitter=("somebody", "north", "lead"))
    assert not_deployed(gated, orchestrator, signed, meta, hospital="north") == "not-authorized"
    assert not_deployed(gated, orchestrator, signed, meta) == "other-submitter"


def test_a_job_runs_once_until_its_date_and_as_it_was_deployed(
    gated, orchestrator, researcher, job, tmp_path
):
    study = read_json_object(job / STUDY)
    late = copy(job, tmp_path / "late")
    write_json(late / STUDY, {**study, "until": "2026-01-01T00:00:00Z"})
    seal_job(late)
    assert not_deployed(gated, orchestrator, sign(late, researcher)) == "job-expired"

    kit, job_id = machine(gated, "harbour"), str(uuid.uuid4())
    meta = meta_of(job, job_id)
    deploy(orchestrator, "harbour", job, job_id)
    [app] = (kit / job_id).glob("app_*")
    assert not_deployed(gated, orchestrator, job) == "already-run"
    for change in ({"min_clients": 0}, {"job_id": str(uuid.uuid4())}, {"submitter_name": "x"}):
        code = refused(start(orchestrator, "harbour", job_id, {**meta, **change}))
        assert code in ("altered-job", "other-submitter")
    settings = app / "config" / "settings.json"
    whole = settings.read_bytes()
    settings.write_bytes(whole.replace(b'"rounds": 2', b'"rounds": 9'))
    assert settings.read_bytes() != whole
    assert refused(start(orchestrator, "harbour", job_id, meta)) == "altered-job"
    settings.write_bytes(whole)
    other = sign(new_job(tmp_path / "other", "rounds=9"), researcher)
    assert refused(deploy(orchestrator, "harbour", other, job_id)) == "already-run"
    # Nothing was reserved for it; FLARE answers with the text of its exception.
    assert refused(start(orchestrator, "harbour", job_id, meta)) == "start-failed"
    deleted = orchestrator.send("harbour", "train.delete_run", job_id=job_id)
    assert deleted["body"] == "OK"  # FLARE tells the folder's path
    assert not (kit / job_id).exists()


def test_an_honest_job_still_runs_and_a_second_time_it_is_refused_by_name(gated, tmp_path):
    job = new_job(tmp_path / "job")
    with open_session(federation.admin_kit(gated, federation.RESEARCHER)) as session:
        first = session.submit(job)
        assert wait_for_end(session, first) == "FINISHED:COMPLETED"
        second = session.submit(job)
        wait_for_end(session, second)
        run = describe(session.job(second))
    assert run.state == "failed"
    refusal = "harbour refused the job: already-run, the job has begun another run before"
    assert [reason for reason in run.reasons if reason.startswith("harbour")] == [
        f"{refusal}; export it again"
    ]
    assert not [reason for reason in run.reasons if "num_ok" in reason or "NVFLARE" in reason]
    log = (machine(gated, "harbour") / "consortium").rglob("errors.log")
    assert "error refused-command: no such command, sys.shell" in "".join(
        path.read_text() for path in log
    )
