"""The description of FLARE's record of a job. The records were taken from a running federation."""

import pytest

from consortium.orchestration.recovery import ATTEMPT, OUTCOME
from consortium.runs.status import describe

RECORD = {
    "name": "tumor_segmentation",
    "resource_spec": {},
    "min_clients": 4,
    "mandatory_clients": ["harbour", "north"],
    "consortium": {"version": "0.1.0", "run": "", "hospitals": ["harbour", "north"]},
    "submitter_name": "researcher@consortium.example",
    "job_id": "0adde301-8973-4073-b9ff-b2a1c2067879",
    "submit_time_iso": "2026-11-25T09:37:41.933005+00:00",
    "duration": "N/A",
    "status": "SUBMITTED",
}


def describe_changed(**changes):
    return describe({**RECORD, **changes})


def test_a_run_that_was_submitted_just_now():
    run = describe_changed()
    assert (run.state, run.name, run.duration) == ("waiting", "tumor_segmentation", "")
    assert run.submitted == "2026-11-25 09:37"
    assert run.hospitals == ["harbour", "north"]
    assert run.reasons == ["it was just submitted, or the jobs before it are still running"]


def test_why_a_run_waits():
    history = ["2026-11-25 09:37:42: missing required site fen"]
    history.append("2026-11-25 09:37:52: missing required site fen")
    assert describe_changed(schedule_history=history).reasons == [
        "hospital fen is not connected (tried 2 times, last at 2026-11-25 09:37:52 UTC)"
    ]
    scarce = (
        "2026-11-25 09:37:42: not enough sites have enough resources (ok sites 3 < min sites 4)"
    )
    asked = {"north": {"num_of_gpus": 1, "mem_per_gpu_in_GiB": 16}, "harbour": {}}
    assert describe_changed(schedule_history=[scarce], resource_spec=asked).reasons == [
        "3 hospitals have the resources it asks for, and it needs 4"
        " (tried 1 time, last at 2026-11-25 09:37:42 UTC)",
        "it asks north for 1 GPU of 16 GiB",
    ]


def test_what_runs_before_a_run_that_waits():
    scarce = (
        "2026-11-25 09:37:42: not enough sites have enough resources (ok sites 1 < min sites 2)"
    )
    waiting = {
        **RECORD,
        "schedule_history": [scarce],
        "resource_spec": {"north": {"num_of_gpus": 1, "cpu_instead": True}},
    }
    others = [
        waiting,
        {**RECORD, "job_id": "aaaaaaaa-1", "status": "RUNNING"},
        {**RECORD, "job_id": "bbbbbbbb-1", "status": "FINISHED:COMPLETED"},
    ]
    assert describe(waiting, others).reasons[1:] == [
        "it asks north for 1 GPU, or for its CPU if it has none",
        f"aaaaaaaa of {RECORD['submitter_name']} is running",
    ]
    assert describe(others[1], others).reasons == []


def test_a_hospital_that_refused_the_job_is_named():
    detail = ["server: OK", "harbour: OK", "north: ERROR: Not authorized: byoc"]
    run = describe_changed(status="FINISHED:COMPLETED", job_deploy_detail=detail)
    assert run.reasons == ["north refused the job: Not authorized: byoc"]


def test_a_refusal_is_hospital_and_code_with_its_meaning_and_nothing_of_flares():
    detail = [
        "server: OK",
        "harbour: job-expired",
        "north: NVFLARE_ERROR: already-run",
        "num_ok_sites 0 < required_min_sites 2",
        "failed to deploy to required client north",
    ]
    run = describe_changed(status="FINISHED:FAILED_TO_RUN", job_deploy_detail=detail)
    assert run.reasons == [
        "harbour refused the job: job-expired, the date until which the job could first be started"
        " has passed",
        "north refused the job: already-run, the job has begun another run before; export it again",
    ]


@pytest.mark.parametrize(
    ("status", "outcome", "state", "reasons"),
    [
        ("DISPATCHED", None, "starting", []),
        ("RUNNING", None, "running", []),
        ("FINISHED:COMPLETED", {"complete": True, "reason": ""}, "finished", []),
        ("FINISHED:COMPLETED", {"complete": False, "reason": "lost"}, "incomplete", ["lost"]),
        ("FINISHED:ABORTED", None, "aborted", []),
        (
            "FINISHED:EXECUTION_EXCEPTION",
            {"complete": False, "reason": "x", "stopped": True},
            "failed",
            ["x"],
        ),
        (
            "FINISHED:ABNORMAL",
            None,
            "interrupted",
            ["the run continues as soon as its hospitals are connected"],
        ),
        (
            "FINISHED:FAILED_TO_RUN",
            None,
            "failed",
            ["FLARE ended it as FINISHED:FAILED_TO_RUN without a reason"],
        ),
    ],
)
def test_how_a_run_stands(status, outcome, state, reasons):
    run = describe_changed(
        status=status, duration="0:00:24.937928", **({OUTCOME: outcome} if outcome else {})
    )
    assert (run.state, run.duration, run.reasons) == (state, "0:00:24", reasons)


@pytest.mark.parametrize(
    "changes",
    [
        {ATTEMPT: {"bogus": 1}},
        {"consortium": {"run": "../../up", "hospitals": ["harbour"]}},
        {"consortium": ["harbour"]},
        {"consortium": {"hospitals": 3}},
        {"schedule_history": 7},
        {
            "resource_spec": [1],
            "schedule_history": ["now: enough resources (ok sites 0 < min sites 2)"],
        },
        {"job_deploy_detail": 5},
        {"name": ["x"], "consortium": 1},
    ],
)
def test_a_record_that_cannot_be_read_is_described_as_far_as_it_can(changes):
    run = describe_changed(**changes)
    assert (run.job, run.state) == (RECORD["job_id"], "waiting")
    assert run.submitter == "researcher@consortium.example"
    assert run.reasons == ["bad-record: the record of the job cannot be read; export the job again"]
    described = describe(RECORD, [{**RECORD, **changes, "status": "RUNNING"}, RECORD])
    assert described.state == "waiting"
