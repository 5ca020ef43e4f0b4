"""Which job goes on with a run, and when none does."""

import pytest

from consortium.orchestration.chain import (
    CHAIN,
    NEXT,
    OUTCOME,
    PATIENCE,
    Link,
    follow,
    is_broken,
    link_of,
)

RECORD = {
    "name": "tumor_segmentation",
    "job_id": "a1",
    "status": "FINISHED:EXECUTION_EXCEPTION",
    "consortium": {"run": "", "hospitals": ["north"]},
    "submitter_name": "researcher@north.example",
    "job_folder_name": "job",
    "schedule_count": 3,
    OUTCOME: {"complete": False, "reason": "a process died"},
}


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({}, True),
        ({"status": "FINISHED:ABNORMAL"}, True),
        ({OUTCOME: {}}, True),
        ({"status": "RUNNING"}, False),
        ({"status": "SUBMITTED"}, False),
        ({"status": "FINISHED:COMPLETED"}, False),
        ({"status": "FINISHED:ABORTED"}, False),
        ({"status": "FINISHED:FAILED_TO_RUN"}, False),
        ({"status": "FINISHED:FAILED_TO_RUN", CHAIN: {"run": "a1", "number": 2}}, True),
        ({OUTCOME: {"complete": False, "reason": "no-quorum", "stopped": True}}, False),
        ({NEXT: "a2"}, False),
        ({"consortium": None}, False),
    ],
)
def test_what_was_broken_off_is_to_go_on_and_what_was_ended_is_not(changes, broken):
    assert is_broken({**RECORD, **changes}) is broken


def test_the_next_job_keeps_what_was_submitted_and_drops_what_happened():
    following = follow(RECORD, rounds=4)
    assert following == {
        "name": "tumor_segmentation",
        "consortium": {"run": "", "hospitals": ["north"]},
        "submitter_name": "researcher@north.example",
        "job_folder_name": "job",
        CHAIN: {"run": "a1", "number": 2, "rounds": 4, "stalled": 0},
    }
    again = follow({**following, "job_id": "a2", "status": "FINISHED:ABNORMAL"}, rounds=4)
    assert again[CHAIN] == {"run": "a1", "number": 3, "rounds": 4, "stalled": 1}
    assert follow({**again, "job_id": "a3"}, rounds=5)[CHAIN]["stalled"] == 0


def test_a_run_that_gets_no_further_is_given_up():
    record, jobs = RECORD, 1
    while (following := follow(record, rounds=0)) is not None:
        record, jobs = {**following, "job_id": f"a{jobs}"}, jobs + 1
    assert jobs == PATIENCE


def test_a_job_knows_its_run():
    assert link_of(RECORD) == Link("a1")
    assert link_of({**RECORD, "consortium": {"run": "r7"}}) == Link("r7")
    assert link_of({**RECORD, CHAIN: {"run": "r7", "number": 3}}) == Link("r7", 3)
    assert link_of({"job_id": "b"}) is None
