"""Which job resumes a run, and when the run is given up."""

import pytest

from consortium.core.errors import Refused
from consortium.orchestration.recovery import (
    ATTEMPT,
    FAILED_SITE,
    LEAVE_OUT,
    NEXT,
    OUTCOME,
    PATIENCE,
    SLOW,
    TRUST,
    Attempt,
    attempt_of,
    follow,
    is_broken,
    is_to_blame,
    why_given_up,
)

FIRST = {"stalled": 0, "failed_site": "", "times": 0, "left_out": []}
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
        ({"status": "FINISHED:FAILED_TO_RUN", ATTEMPT: {"run": "a1", "number": 2}}, True),
        ({OUTCOME: {"complete": False, "reason": "no-quorum", "stopped": True}}, False),
        ({NEXT: "a2"}, False),
        ({"consortium": None}, False),
    ],
)
def test_an_interrupted_job_is_resumed_and_one_that_was_ended_is_not(changes, broken):
    assert is_broken({**RECORD, **changes}) is broken


def test_the_next_job_keeps_what_was_submitted_and_drops_what_flare_added():
    following = follow(RECORD, rounds=4)
    assert following == {
        "name": "tumor_segmentation",
        "consortium": {"run": "", "hospitals": ["north"]},
        "submitter_name": "researcher@north.example",
        "job_folder_name": "job",
        ATTEMPT: {**FIRST, "run": "a1", "number": 2, "rounds": 4},
    }
    again = follow({**following, "job_id": "a2", "status": "FINISHED:ABNORMAL"}, rounds=4)
    assert again[ATTEMPT] == {**FIRST, "run": "a1", "number": 3, "rounds": 4, "stalled": 1}
    assert follow({**again, "job_id": "a3"}, rounds=5)[ATTEMPT]["stalled"] == 0


def test_a_run_without_progress_is_given_up():
    record, jobs = RECORD, 1
    while (following := follow(record, rounds=0)) is not None:
        record, jobs = {**following, "job_id": f"a{jobs}"}, jobs + 1
    assert jobs == PATIENCE


STUDY = {
    "hospitals": ["east", "north", "west"],
    "quorum": {"minimum": 2, "mandatory": ["east"]},
}
THREE = {**RECORD, "consortium": STUDY, "deploy_map": {"app": ["@ALL"]}}


def break_off(record, *breakers, rounds=0):
    """The record of the job that resumes the run after each of these hospitals broke a job."""
    for number, hospital in enumerate(breakers):
        following = follow({**record, FAILED_SITE: hospital}, rounds)
        if following is None:
            return None
        record = {**following, "job_id": f"b{number}", "status": RECORD["status"]}
    return record


def test_a_hospital_that_breaks_one_job_after_the_other_is_left_out():
    before = break_off(THREE, *["north"] * (LEAVE_OUT - 1))
    assert (attempt_of(before).failed_site, attempt_of(before).times) == ("north", LEAVE_OUT - 1)
    assert before["deploy_map"] == THREE["deploy_map"]
    after = break_off(THREE, *["north"] * LEAVE_OUT)
    assert attempt_of(after).left_out == ("north",)
    assert after["deploy_map"] == {"app": ["server", "east", "west"]}
    assert (attempt_of(after).stalled, attempt_of(after).times) == (0, 0)


@pytest.mark.parametrize(
    ("quorum", "failed_site"),
    [
        ({}, "north"),
        ({"minimum": 2, "mandatory": ["east"]}, "east"),
        ({"minimum": 2, "clients_per_round": 2}, "north"),
    ],
)
def test_a_hospital_that_the_quorum_needs_is_not_left_out_but_named(quorum, failed_site):
    record = {**THREE, "consortium": {**STUDY, "quorum": quorum}}
    last = break_off(record, *[failed_site] * (PATIENCE - 1))
    assert attempt_of(last).left_out == ()
    last = {**last, FAILED_SITE: failed_site}
    assert follow(last, rounds=0) is None
    assert f"{failed_site} broke the last {PATIENCE} of them" in why_given_up(last)


def test_hospitals_that_take_turns_in_breaking_it_are_not_left_out():
    assert attempt_of(break_off(THREE, "north", "west", "north", "west")).left_out == ()


def test_a_second_hospital_is_left_out_only_as_far_as_the_quorum_allows():
    once = break_off(THREE, *["north"] * LEAVE_OUT)
    twice = break_off(once, *["west"] * LEAVE_OUT)
    assert attempt_of(twice).left_out == ("north",)
    record = {**THREE, "consortium": {**STUDY, "quorum": {"minimum": 1}}}
    once = break_off(record, *["north"] * LEAVE_OUT)
    twice = break_off(once, *["west"] * LEAVE_OUT)
    assert attempt_of(twice).left_out == ("north", "west")
    assert twice["deploy_map"] == {"app": ["server", "east"]}


def test_no_hospital_is_blamed_for_a_job_that_closed_enough_rounds():
    record, rounds = THREE, 0
    for number in range(2 * LEAVE_OUT):
        rounds += TRUST
        record = break_off(record, "north", rounds=rounds)
        assert (attempt_of(record).left_out, attempt_of(record).times) == ((), 0), number
    # Only short jobs count, even after a long one.
    record = break_off(record, *["north"] * (LEAVE_OUT - 1), rounds=rounds)
    assert attempt_of(record).left_out == ()
    assert attempt_of(break_off(record, "north", rounds=rounds)).left_out == ("north",)


def test_a_job_knows_its_run():
    assert attempt_of(RECORD) == Attempt("a1")
    assert attempt_of({**RECORD, "consortium": {"run": "r7"}}) == Attempt("r7")
    assert attempt_of({**RECORD, ATTEMPT: {"run": "r7", "number": 3}}) == Attempt("r7", 3)
    assert attempt_of({"job_id": "b"}) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"consortium": {"run": "../../up"}},
        {"consortium": {"run": "/etc"}},
        {"consortium": {"run": ["r1"]}},
        {"consortium": {"hospitals": ["../north"]}},
        {"consortium": {"hospitals": "north"}},
        {"consortium": {"hospitals": [["north"]]}},
        {"consortium": {"quorum": []}},
        {"consortium": "r1"},
        {"job_id": "a/b"},
        {"job_id": None},
        {ATTEMPT: {"bogus": 1}},
        {ATTEMPT: {"run": "r1", "bogus": 1}},
        {ATTEMPT: {}},
        {ATTEMPT: []},
        {ATTEMPT: None},
        {ATTEMPT: {"run": "../up"}},
        {ATTEMPT: {"run": "r1", "rounds": "many"}},
        {ATTEMPT: {"run": "r1", "rounds": -1}},
        {ATTEMPT: {"run": "r1", "stalled": True}},
        {ATTEMPT: {"run": "r1", "left_out": "north"}},
        {ATTEMPT: {"run": "r1", "left_out": ["../north"]}},
        {ATTEMPT: {"run": "r1", "failed_site": 1}},
    ],
)
def test_a_record_that_nobody_here_wrote_is_refused(changes):
    record = {**RECORD, **changes}
    for read in (attempt_of, is_broken, lambda record: follow(record, 0)):
        with pytest.raises(Refused, match=r"^error bad-record: "):
            read(record)


def test_an_outcome_of_another_kind_is_passed_over():
    assert is_broken({**RECORD, OUTCOME: "done"})


def test_a_hospital_that_waited_in_vain_for_the_orchestrator_is_not_blamed():
    assert is_to_blame(opened=True, seconds=10 * SLOW)
    assert is_to_blame(opened=False, seconds=SLOW / 2)
    assert not is_to_blame(opened=False, seconds=2 * SLOW)
