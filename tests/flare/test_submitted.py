"""What the parent processes accept of jobs that were changed after they were signed."""

import json
import random
import shutil

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from nvflare.fuel.sec.authz import AuthorizationService, Authorizer
from nvflare.security.security import FLAuthorizer
from scripts.benchmarks import job_mutations
from scripts.benchmarks.signed_jobs import (
    JOB_ID,
    OTHER_ID,
    Authority,
    archive_of,
    copy,
    expired,
    exported,
    meta_of,
    rename,
    sign,
    swap_signature,
    take_out,
)

from consortium.core.errors import ConsortiumError, Refused
from consortium.core.files import write_json
from consortium.core.json_files import read_json_object
from consortium.flare.parent.archive import check_submission
from consortium.flare.parent.submitted import judge_job
from consortium.kits.site_defaults import AUTHORIZATION
from consortium.orchestration.recovery import ATTEMPT
from consortium.study.job_content import BOUND, check_content
from consortium.study.job_files import read_archive, read_folder
from consortium.study.job_folder import CLIENT_CONFIG, SERVER_CONFIG, SETTINGS, STUDY, seal_job
from consortium.study.refusals import REFUSALS


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority") / "people")


@pytest.fixture(scope="module")
def kit(authority, tmp_path_factory):
    return authority.kit(tmp_path_factory.mktemp("kit") / "north")


@pytest.fixture(scope="module")
def researcher(authority):
    return authority.person()


@pytest.fixture(scope="module")
def signed(researcher, tmp_path_factory):
    """A job as its researcher submitted it; tests change copies."""
    return sign(exported(tmp_path_factory.mktemp("signed") / "job"), researcher)


@pytest.fixture(scope="module")
def other(researcher, tmp_path_factory):
    """Another job of the same researcher, whose settings differ."""
    folder = tmp_path_factory.mktemp("signed") / "other"
    return sign(exported(folder, assignments=["rounds=99"]), researcher)


@pytest.fixture
def job(signed, tmp_path):
    return copy(signed, tmp_path / "job")


def allow(monkeypatch, permissions):
    """Sets the policy of the hospital `north`, in FLARE's own reading."""
    authorizer = FLAuthorizer("north", {**AUTHORIZATION, "permissions": permissions})
    assert isinstance(authorizer, Authorizer)
    monkeypatch.setattr(AuthorizationService, "the_authorizer", authorizer)


@pytest.fixture(autouse=True)
def shipped_policy(monkeypatch):
    allow(monkeypatch, AUTHORIZATION["permissions"])


def judge(kit, job, meta=None, job_id=JOB_ID):
    return judge_job(kit, read_archive(archive_of(job)), meta or meta_of(job), job_id)


def refusal(kit, job, meta=None, job_id=JOB_ID):
    """The code with which a job is refused, at its arrival and at its start alike."""
    with pytest.raises(ConsortiumError) as refused:
        judge(kit, job, meta, job_id)
    with pytest.raises(ConsortiumError) as at_start:
        judge_job(kit, read_folder(job / "app"), meta or meta_of(job), job_id)
    assert at_start.value.code == refused.value.code
    assert refused.value.code in REFUSALS
    return refused.value.code


def test_a_job_as_it_was_signed_is_accepted(kit, signed):
    judged = judge(kit, signed)
    assert (judged.run, judged.job_id, judged.signer.role) == (JOB_ID, JOB_ID, "lead")
    assert judged == judge_job(kit, read_folder(signed / "app"), meta_of(signed), JOB_ID)


@pytest.mark.parametrize("file", [SETTINGS, CLIENT_CONFIG, SERVER_CONFIG, STUDY])
def test_no_file_of_another_signed_job_can_be_mixed_in(kit, job, other, file):
    swap_signature(job, file, other)
    same = (job / file).read_bytes() == (other / file).read_bytes() and file in (
        CLIENT_CONFIG,
        SERVER_CONFIG,
    )
    if same:  # both jobs have the package's own configuration
        assert judge(kit, job)
    else:
        assert refusal(kit, job) == "altered-job"


def test_study_and_settings_of_another_job_together_are_the_other_job(kit, job, other):
    swap_signature(job, SETTINGS, other)
    swap_signature(job, STUDY, other)
    assert judge(kit, job).content.digest == judge(kit, other).content.digest


@pytest.mark.parametrize("file", [SETTINGS, CLIENT_CONFIG, SERVER_CONFIG])
def test_no_file_can_be_taken_out(kit, job, file):
    take_out(job, file)
    assert refusal(kit, job) == "missing-file"


def test_the_study_cannot_be_taken_out(kit, job):
    take_out(job, STUDY)
    assert refusal(kit, job, {**meta_of(job), "min_clients": 1}) == "not-exported"


def test_no_file_can_be_renamed_or_added(kit, job, signed, tmp_path):
    rename(job, SETTINGS, "config_fed_client.conf")
    assert refusal(kit, job) == "missing-file"
    more = copy(signed, tmp_path / "more")
    shutil.copy(more / CLIENT_CONFIG, (more / CLIENT_CONFIG).with_suffix(".conf"))
    assert refusal(kit, more) == "unknown-file"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "other"),
        ("min_clients", 1),
        ("min_clients", True),
        ("mandatory_clients", ["east"]),
        ("mandatory_clients", None),
        ("resource_spec", {}),
        ("deploy_map", {"app": ["server", "east"]}),
        ("deploy_map", {"other": ["@ALL"]}),
        ("consortium", {}),
        ("consortium", {"version": "0.1.0", "run": "", "hospitals": ["east"]}),
    ],
)
def test_meta_cannot_say_anything_else_than_the_study(kit, job, key, value):
    assert key in BOUND
    assert refusal(kit, job, {**meta_of(job), key: value}) == "altered-job"


@pytest.mark.parametrize("key", ["launcher_spec", "scope", "custom_props", "study", "x"])
def test_meta_holds_no_key_that_chooses_a_launcher_an_image_or_a_scope(kit, job, key):
    assert refusal(kit, job, {**meta_of(job), key: {"docker": {"image": "x"}}}) == "unknown-key"


@pytest.mark.parametrize(
    ("attempt", "accepted"),
    [
        ({"run": JOB_ID}, True),
        ({"run": OTHER_ID}, True),
        ({"run": "r1"}, False),
        ({"run": "../up"}, False),
        ({"run": ["x"]}, False),
        ({"bogus": 1}, False),
        ("x", False),
        ({"run": JOB_ID, "left_out": ["west"]}, False),
        ({"run": JOB_ID, "left_out": [1]}, False),
    ],
)
def test_the_run_keeper_may_name_the_run_and_nothing_else(kit, job, attempt, accepted):
    meta = {**meta_of(job), ATTEMPT: attempt}
    if accepted:
        assert judge(kit, job, meta).run == attempt["run"]
    else:
        assert refusal(kit, job, meta) in ("altered-job", "bad-record")


def test_the_run_keeper_may_leave_out_whom_the_signed_quorum_does_without(
    kit, researcher, tmp_path
):
    job = sign(exported(tmp_path / "job", quorum=["minimum=1", 'mandatory=["east"]']), researcher)
    meta = meta_of(job)

    def left_out(*names, sites):
        attempt = {"run": JOB_ID, "left_out": list(names)}
        return {**meta, ATTEMPT: attempt, "deploy_map": {"app": sites}}

    assert judge(kit, job, left_out("west", sites=["server", "east"]))
    for refused in (
        left_out("east", sites=["server", "west"]),
        left_out("west", sites=["@ALL"]),
        left_out("west", sites=["server", "east", "stranger"]),
        left_out("stranger", sites=["server", "east", "west"]),
    ):
        assert refusal(kit, job, refused) == "altered-job"


def test_a_signed_run_is_the_only_one_that_a_job_continues(kit, researcher, tmp_path):
    job = sign(exported(tmp_path / "job", run="r1"), researcher)
    assert judge(kit, job).run == "r1"
    meta = meta_of(job)
    assert refusal(kit, job, {**meta, ATTEMPT: {"run": "r2"}}) == "altered-job"
    changed = {**meta, "consortium": {**meta["consortium"], "run": "r2"}}
    assert refusal(kit, job, changed) == "altered-job"


@pytest.mark.parametrize("job_id", ["local", "../x", "", None, 7, JOB_ID.upper(), f"{{{JOB_ID}}}"])
def test_a_jobs_id_is_an_id(kit, job, job_id):
    assert refusal(kit, job, job_id=job_id) == "bad-job-id"


def test_the_id_in_meta_is_the_one_of_the_command(kit, job):
    assert refusal(kit, job, meta_of(job), OTHER_ID) == "altered-job"


def test_the_submitter_is_who_signed(kit, job):
    meta = meta_of(job, submitter=("coordinator@consortium.example", "coordination", "lead"))
    assert refusal(kit, job, meta) == "other-submitter"


def test_only_people_of_this_consortium_sign_jobs_and_only_while_they_may(
    kit, authority, job, tmp_path
):
    stranger = Authority(tmp_path / "elsewhere").person()
    assert refusal(kit, sign(job, stranger)) == "wrong-signer"
    assert refusal(kit, sign(job, authority.person(**expired()))) == "expired-signer"
    root = tmp_path / "root.crt"
    root.write_bytes((kit / "startup" / "rootCA.pem").read_bytes())
    assert refusal(kit, sign(job, (authority.key, root))) == "wrong-signer"
    for file in job.rglob(".__nvfl_*"):
        file.unlink()
    assert refusal(kit, job) == "wrong-signer"


def test_who_may_submit_is_read_from_the_signature_and_not_from_the_message(
    kit, authority, job, monkeypatch
):
    hospital = ("east", "east", "")
    meta = meta_of(job, submitter=hospital)
    assert refusal(kit, sign(job, authority.person(*hospital)), meta) == "not-authorized"
    for role in ("member", "org_admin", "super"):
        somebody = ("somebody@consortium.example", "coordination", role)
        meta = meta_of(job, submitter=somebody)
        assert refusal(kit, sign(job, authority.person(*somebody)), meta) == "not-authorized"
    lead = {**AUTHORIZATION["permissions"]["lead"], "submit_job": "not o:coordination"}
    allow(monkeypatch, {**AUTHORIZATION["permissions"], "lead": lead})
    assert refusal(kit, sign(job, authority.person())) == "not-authorized"
    outside = ("researcher@other.example", "other", "lead")
    meta = meta_of(job, submitter=outside)
    assert judge(kit, sign(job, authority.person(*outside)), meta).signer.organisation == "other"
    monkeypatch.setattr(AuthorizationService, "the_authorizer", None)
    assert refusal(kit, job, meta) == "not-authorized"


def popen(job):
    """Adds the component with which any command could be run."""
    config = read_json_object(job / CLIENT_CONFIG)
    inner = {"config_type": "dict", "path": "subprocess.Popen", "args": {"args": ["id"]}}
    config["components"].append(
        {
            "id": "x",
            "path": "consortium.flare.provisioner.prepare_builders",
            "args": {"project_dict": {"config_type": "dict", "builders": [inner]}},
        }
    )
    write_json(job / CLIENT_CONFIG, config)


def change(file, *path, to):
    """Returns what changes one value of a configuration."""

    def changed(job):
        content = read_json_object(job / file)
        *parents, last = path
        section = content
        for key in parents:
            section = section[key]
        section[last] = to
        write_json(job / file, content)

    return changed


@pytest.mark.parametrize(
    "alter",
    [
        popen,
        change(CLIENT_CONFIG, "executors", 0, "executor", "path", to="subprocess.Popen"),
        change(CLIENT_CONFIG, "executors", 0, "executor", "args", to={"hospital": "os:system"}),
        change(CLIENT_CONFIG, "executors", 0, "executor", "config_type", to="dict"),
        change(CLIENT_CONFIG, "executors", 0, "tasks", to=["*"]),
        change(CLIENT_CONFIG, "task_result_filters", to=[{"tasks": ["train"], "filters": []}]),
        change(CLIENT_CONFIG, "get_task_timeout", to="{$HOME}"),
        change(CLIENT_CONFIG, "get_task_timeout", to=0),
        change(CLIENT_CONFIG, "get_task_timeout", to=True),
        change(CLIENT_CONFIG, "more", to=1),
        change(SERVER_CONFIG, "server", "more", to=1),
        change(SERVER_CONFIG, "workflows", to=[]),
        change(SERVER_CONFIG, "components", 0, "args", to={"x": 1}),
    ],
)
def test_a_configuration_builds_the_shells_and_nothing_else(kit, job, researcher, alter):
    alter(job)
    seal_job(job)
    assert refusal(kit, sign(job, researcher)) == "other-configuration"


def test_flares_command_line_may_write_the_configuration_again(kit, job, researcher):
    for file in (CLIENT_CONFIG, SERVER_CONFIG):
        (job / file).write_text(json.dumps(read_json_object(job / file), indent=7))
    assert judge(kit, sign(job, researcher))
    (job / SETTINGS).write_text(json.dumps(read_json_object(job / SETTINGS), indent=7))
    assert refusal(kit, sign(job, researcher)) == "altered-job"


def test_times_of_the_configuration_may_be_chosen(kit, job, researcher):
    change(CLIENT_CONFIG, "get_task_timeout", to=5)(job)
    change(SERVER_CONFIG, "server", "task_request_interval", to=0.5)(job)
    seal_job(job)
    assert judge(kit, sign(job, researcher))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{}", "bad-setting"),
        ("[]", "bad-json"),
        ("[" * 100000, "bad-json"),
        ('{"task": "tabular", "task": "segmentation"}', "bad-json"),
        ('{"seed": NaN}', "bad-json"),
        ('{"task": ["segmentation"]}', "bad-setting"),
    ],
)
def test_settings_are_read_before_a_job_is_accepted(kit, job, researcher, text, code):
    (job / SETTINGS).write_text(text)
    seal_job(job)
    assert refusal(kit, sign(job, researcher)) == code


@pytest.mark.parametrize(
    "study",
    [
        {},
        {"nonce": "x"},
        {"until": "tomorrow"},
        {"until": "2026-13-01T00:00:00Z"},
        {"more": 1},
        {"min_clients": 2**70},
        {"min_clients": "1"},
        {"deploy_map": {"app": ["@ALL"], "more": ["east"]}},
        {"resource_spec": {"east": {"docker": {"image": "x"}}}},
    ],
)
def test_the_study_has_the_keys_of_an_export_and_no_others(kit, job, researcher, study):
    content = {**read_json_object(job / STUDY), **study} if study else {}
    write_json(job / STUDY, content)
    if study and study.get("min_clients") != 2**70:
        seal_job(job)
    assert refusal(kit, sign(job, researcher)) == "bad-study"


def test_a_job_that_brings_code_needs_the_right_of_its_signer_at_this_kit(
    kit, researcher, tmp_path, monkeypatch
):
    job = sign(exported(tmp_path / "job", with_package=True), researcher)
    assert refusal(kit, job) == "brings-code"
    lead = {**AUTHORIZATION["permissions"]["lead"], "byoc": "o:coordination"}
    allow(monkeypatch, {**AUTHORIZATION["permissions"], "lead": lead})
    assert judge(kit, job).content.brings_code
    (job / "app" / "custom" / "planted.py").write_text("")
    assert refusal(kit, sign(job, researcher)) == "altered-job"


def test_the_orchestrator_judges_the_whole_folder(kit, signed, researcher, tmp_path):
    def submit(job):
        whole = tmp_path / f"{job.parent.name}-{job.name}"
        shutil.make_archive(str(whole), "zip", job.parent, job.name)
        check_submission(kit, f"{whole}.zip", meta_of(job))

    submit(signed)
    more = sign(copy(signed, tmp_path / "more"), researcher)
    (more / "run.sh").write_text("")
    with pytest.raises(Refused, match="error unknown-file: "):
        submit(more)
    raw = copy(signed, tmp_path / "raw")
    (raw / STUDY).unlink()
    with pytest.raises(Refused, match="error not-exported: this is a job's source, not a job"):
        submit(raw)


def test_no_two_exports_have_the_same_digest(tmp_path):
    digests = {
        check_content(read_folder(exported(tmp_path / name) / "app")).digest for name in "abc"
    }
    assert len(digests) == 3


@seed(2026)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.randoms(use_true_random=False))
def test_nothing_that_differs_from_what_was_signed_is_accepted(kit, signed, other, draw):
    job_mutations.try_one(kit, signed, other, draw)


def test_the_mutations_differ(kit, signed, other):
    draw = random.Random(1)
    outcomes = [job_mutations.try_one(kit, signed, other, draw) for _ in range(200)]
    assert len(set(outcomes)) > 8
