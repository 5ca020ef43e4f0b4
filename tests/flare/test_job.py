"""A job that somebody changed between its submission and the process that runs it."""

import pytest
from tests.conftest import JOB

from consortium.core.errors import Refused
from consortium.core.json_files import read_json_object
from consortium.flare.job import check_as_submitted
from consortium.orchestration.recovery import ATTEMPT
from consortium.study.job_content import BOUND
from consortium.study.job_folder import SETTINGS, STUDY, prepare_job


@pytest.fixture
def submitted(tmp_path):
    """A prepared job as it arrives: its meta, and the deployed configuration."""
    settings = read_json_object(JOB / SETTINGS)
    prepare_job(JOB, tmp_path / "job", run="r1", hospitals=["east", "west"], settings=settings)
    config = (tmp_path / "job" / STUDY).parent
    meta = read_json_object(tmp_path / "job" / "meta.json")
    return {**meta, "job_id": "7df7f2d5", "submitter_name": "researcher"}, config


def test_a_job_as_submitted_is_accepted(submitted):
    check_as_submitted(*submitted)


def test_flare_may_note_that_a_job_brings_code(submitted):
    meta, config = submitted
    check_as_submitted({**meta, "byoc": True}, config)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("min_clients", 1),
        ("mandatory_clients", ["east"]),
        ("resource_spec", {}),
        ("deploy_map", {"app": ["east"]}),
        ("consortium", {"version": "0.1.0", "run": "r1", "hospitals": ["east"]}),
    ],
)
def test_the_study_cannot_be_altered_in_meta(submitted, key, value):
    meta, config = submitted
    assert key in BOUND
    with pytest.raises(Refused) as refused:
        check_as_submitted({**meta, key: value}, config)
    assert refused.value.code == "altered-job"
    assert refused.value.what == f"{key} in meta.json differs from what was submitted"


def test_the_orchestrator_may_leave_out_a_hospital_and_say_so(tmp_path):
    job, settings = tmp_path / "job", read_json_object(JOB / SETTINGS)
    names, quorum = ["east", "west"], ["minimum=1"]
    prepare_job(JOB, job, run="r1", hospitals=names, settings=settings, quorum=quorum)
    config = (job / STUDY).parent
    narrowed = {**read_json_object(job / "meta.json"), ATTEMPT: {"run": "r1", "left_out": ["west"]}}
    check_as_submitted({**narrowed, "deploy_map": {"app": ["server", "east"]}}, config)
    for sites in (["@ALL"], ["server", "east", "stranger"], ["east"]):
        with pytest.raises(Refused, match="altered-job: deploy_map in meta"):
            check_as_submitted({**narrowed, "deploy_map": {"app": sites}}, config)


def test_a_job_without_the_study_that_was_signed_is_refused(submitted):
    meta, config = submitted
    (config / STUDY.name).unlink()
    with pytest.raises(Refused, match="not-exported: "):
        check_as_submitted(meta, config)


def test_a_run_or_a_hospital_that_is_none_is_refused_at_both_ends(submitted):
    meta, config = submitted
    for section in ({"run": "../up"}, {"run": "/etc"}, {"hospitals": ["../north"]}):
        altered = {**meta, "consortium": {**meta["consortium"], **section}}
        with pytest.raises(Refused, match="bad-record"):
            check_as_submitted(altered, config)
    with pytest.raises(Refused, match="bad-record"):
        check_as_submitted({**meta, ATTEMPT: {"bogus": 1}}, config)
