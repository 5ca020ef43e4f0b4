"""Two researchers of one federation: neither uses, continues or stops what belongs to the other."""

import contextlib
import shutil

import pytest
from ruamel.yaml import YAML
from tests.conftest import JOB, TINY
from tests.flare.conftest import wait_for_end

from consortium.core.files import write_json
from consortium.core.json_files import read_json_object
from consortium.flare.session import open_session
from consortium.kits.orchestrator import ORCHESTRATOR
from consortium.membership.provisioning import KITS, create
from consortium.orchestration.owners import OWNER
from consortium.orchestration.recovery import ATTEMPT, KEEPER_KEYS
from consortium.runs import federation
from consortium.runs.status import describe
from consortium.study.job_folder import STUDY, export_job

pytestmark = pytest.mark.flare

OTHER = "other@elsewhere.example"
HOSPITAL = "north"


@pytest.fixture(scope="module")
def kit(workspace):
    return federation.admin_kit(workspace, federation.RESEARCHER)


@pytest.fixture(scope="module")
def other_kit(workspace, tmp_path_factory):
    """The kit of a lead of another organisation, who joined later."""
    coordinator = tmp_path_factory.mktemp("later") / "coordinator"
    shutil.copytree(workspace / "coordinator", coordinator)
    yaml = YAML(typ="safe", pure=True)
    project = yaml.load(coordinator / "project.yml")
    project["participants"].append(
        {"name": OTHER, "type": "admin", "org": "elsewhere", "role": "lead"}
    )
    yaml.dump(project, coordinator / "project.yml")
    create(coordinator / "project.yml", coordinator)
    return coordinator / KITS / OTHER


@pytest.fixture
def export(tmp_path):
    """Exports a job, and changes its `meta.json` and the signed copy of it afterwards."""

    def make(*assignments, run="", meta=None, section=None):
        folder = tmp_path / f"job-{len(list(tmp_path.iterdir()))}"
        changes = [*TINY, *assignments]
        export_job(
            JOB, folder, hospitals=[HOSPITAL], assignments=changes, run=run, with_package=False
        )
        for file in ("meta.json", STUDY):
            content = read_json_object(folder / file)
            content["consortium"] |= section or {}
            write_json(folder / file, content)
        write_json(folder / "meta.json", read_json_object(folder / "meta.json") | (meta or {}))
        return folder

    return make


@pytest.fixture(scope="module")
def first(workspace, kit, tmp_path_factory):
    """A finished run of the first researcher."""
    job = tmp_path_factory.mktemp("first") / "job"
    export_job(JOB, job, hospitals=[HOSPITAL], assignments=TINY, with_package=False)
    with open_session(kit) as session:
        run = session.submit(job)
        assert wait_for_end(session, run) == "FINISHED:COMPLETED"
    return run


def ends(*submissions):
    """Submits jobs at once, each with a kit, and returns each job's last description."""
    with contextlib.ExitStack() as stack:
        kits = {kit for kit, _ in submissions}
        sessions = {kit: stack.enter_context(open_session(kit)) for kit in kits}
        ids = [(sessions[kit], sessions[kit].submit(job)) for kit, job in submissions]
        for session, job_id in ids:
            wait_for_end(session, job_id)
        return [describe(session.job(job_id)) for session, job_id in ids]


@pytest.fixture
def offered(workspace, first, tmp_path):
    """The name of a model that the orchestrator's operator offers."""
    root = workspace / "machines" / federation.ORCHESTRATOR
    models = (root / "consortium" / first / "checkpoints").glob("model-*[0-9].safetensors")
    folder = tmp_path / "offered"
    folder.mkdir()
    shutil.copy(max(models), folder / "deep.safetensors")
    shipped = read_json_object(root / ORCHESTRATOR)
    write_json(root / ORCHESTRATOR, {"models": str(folder)})
    yield "deep.safetensors"
    write_json(root / ORCHESTRATOR, shipped)


def test_a_run_and_its_checkpoints_are_its_submitters(
    workspace, kit, other_kit, first, offered, export
):
    machines = workspace / "machines"
    for machine in (federation.ORCHESTRATOR, HOSPITAL):
        owner = read_json_object(machines / machine / "consortium" / first / OWNER)
        assert owner == {"name": federation.RESEARCHER, "organisation": "coordination"}
    checkpoints = machines / federation.ORCHESTRATOR / "consortium" / first / "checkpoints"
    before = {path.name: path.read_bytes() for path in checkpoints.glob("*.*")}
    model = max(checkpoints.glob("model-*[0-9].safetensors"))
    continued, *started, everybodys = ends(
        (other_kit, export("rounds=3", run=first)),
        *(
            (other_kit, export(f'model.from="{name}"'))
            for name in (model, f"run:{first}", "/etc/shadow")
        ),
        (other_kit, export(f"model.from={offered}", "rounds=1")),
    )
    assert continued.state == "failed"
    assert continued.reasons[0].startswith("other-submitter: the run belongs to somebody else")
    assert {run.state for run in started} == {"failed"}
    answers = {run.reasons[0] for run in started}
    assert len(answers) == 1
    assert answers.pop().startswith("no-start-model: there is no such model for this submitter")
    assert {path.name: path.read_bytes() for path in checkpoints.glob("*.*")} == before
    assert everybodys.state == "finished"
    longer, again = ends(
        (kit, export("rounds=3", run=first)),
        (kit, export(f'model.from="run:{first}"', "rounds=1")),
    )
    assert (longer.state, again.state) == ("finished", "finished")


def test_no_submitted_record_stops_the_others_or_writes_elsewhere(
    workspace, kit, other_kit, export, tmp_path, consortium
):
    elsewhere = tmp_path / "elsewhere"
    paths = [export(section={"run": run}) for run in (str(elsewhere), "../../../elsewhere")]
    named = export(section={"hospitals": ["../north"]})
    listed = export(meta={"name": ["x"]})
    local = export("rounds=1", meta={"job_id": "local"})
    chained = export("rounds=1", meta={key: {"bogus": 1} for key in KEEPER_KEYS})
    *refused, moved, dropped, own = ends(
        *((other_kit, job) for job in (*paths, named, listed, local, chained)),
        (kit, export("rounds=1")),
    )
    for run in refused:
        assert run.state == "failed"
        assert run.reasons[0].startswith(("bad-record: ", "bad-study: ", "altered-job: "))
    assert {run.state for run in (moved, dropped, own)} == {"finished"}
    assert moved.job != "local"
    assert not elsewhere.exists()
    assert not (workspace / "machines" / "elsewhere").exists()
    with open_session(other_kit) as session:
        assert ATTEMPT not in session.job(dropped.job)
    code, printed, errors = consortium("runs", "--kit", kit)
    assert (code, errors) == (0, "")
    assert all(run.job[:8] in printed for run in (*refused, moved, dropped, own))
    # One record is damaged on the orchestrator's disk.
    damaged = workspace / "machines" / federation.ORCHESTRATOR / "jobs" / refused[0].job
    (damaged / "meta").write_bytes(b"\xff{")
    try:
        code, printed, errors = consortium("runs", "--kit", kit)
        assert (code, errors) == (0, "")
        assert own.job[:8] in printed
    finally:
        shutil.rmtree(damaged)
