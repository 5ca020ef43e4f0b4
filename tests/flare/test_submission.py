"""The record of a submitted job, before the orchestrator stores it."""

import pytest
from nvflare.apis.job_def import is_valid_job_id

from consortium.core.errors import Refused
from consortium.flare.parent.submission import check_record, clean_record, readable_part
from consortium.orchestration.owners import Owner, claim_run, is_owner
from consortium.orchestration.recovery import KEEPER_KEYS, attempt_of

JOB_ID = "0adde301-8973-4073-b9ff-b2a1c2067879"
RECORD = {
    "name": "tumor_segmentation",
    "deploy_map": {"app": ["@ALL"]},
    "min_clients": 2,
    "mandatory_clients": ["north"],
    "consortium": {"version": "0.1.0", "run": "", "hospitals": ["harbour", "north"]},
    "submitter_name": "ada@a.example",
    "submitter_org": "a",
    "job_id": JOB_ID,
    "job_folder_name": "job",
}
ADA = Owner("ada@a.example", "a")


def test_a_job_as_we_export_it_is_kept_and_its_run_is_the_submitters(tmp_path):
    assert clean_record(RECORD) == RECORD
    check_record(RECORD, tmp_path)
    assert is_owner(tmp_path / "consortium" / JOB_ID, ADA)


@pytest.mark.parametrize(
    "key", [*KEEPER_KEYS, "schedule_count", "schedule_history", "job_deploy_detail", "start_time"]
)
def test_what_only_the_orchestrator_sets_is_dropped(key):
    assert clean_record({**RECORD, key: {"bogus": 1}}) == RECORD


@pytest.mark.parametrize("job_id", ["startup", "local", "x", 7, None, ""])
def test_a_job_cannot_choose_the_folder_that_flare_deploys_it_to(job_id):
    cleaned = clean_record({**RECORD, "job_id": job_id})
    assert is_valid_job_id(cleaned["job_id"])
    assert cleaned == {**RECORD, "job_id": cleaned["job_id"]}


@pytest.mark.parametrize(
    "changes",
    [
        {"consortium": {"run": "../../../tmp/elsewhere"}},
        {"consortium": {"run": "/tmp/elsewhere"}},
        {"consortium": {"hospitals": ["../north"]}},
        {"consortium": []},
        {"name": ["x"]},
        {"min_clients": "2"},
        {"mandatory_clients": "north"},
        {"deploy_map": None},
    ],
)
def test_a_record_that_would_stop_others_is_refused_and_what_is_left_can_be_read(tmp_path, changes):
    record = {**RECORD, **changes}
    with pytest.raises(Refused, match="bad-record"):
        check_record(record, tmp_path)
    assert list(tmp_path.iterdir()) == []
    left = readable_part(record)
    attempt_of(left)
    assert isinstance(left.get("name", ""), str)
    assert (left["job_id"], left["submitter_name"]) == (JOB_ID, "ada@a.example")


def test_a_run_of_somebody_else_is_not_continued(tmp_path):
    claim_run(tmp_path / "consortium" / "r1", Owner("bob@b.example", "b"))
    record = {**RECORD, "consortium": {**RECORD["consortium"], "run": "r1"}}
    with pytest.raises(Refused, match="other-submitter"):
        check_record(record, tmp_path)
    assert readable_part(record) == record
