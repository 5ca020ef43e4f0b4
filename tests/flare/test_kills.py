"""Processes that are killed in the middle of a run, and the recovery of the run."""

import random
import time

import pytest
from scripts.benchmarks import chaos, cut
from tests.conftest import JOB
from tests.flare.conftest import OPEN, wait_for_end

from consortium.core.files import write_json
from consortium.core.json_files import read_json_object
from consortium.flare.session import open_session
from consortium.orchestration.recovery import LEAVE_OUT, NEXT, PATIENCE
from consortium.runs import federation
from consortium.runs.status import GOING_ON, describe
from consortium.study.job_folder import CLIENT_CONFIG, SETTINGS, prepare_job, seal_job

pytestmark = pytest.mark.flare

ROUNDS = 60
NAMES = ["harbour", "north"]


@pytest.fixture(scope="module")
def federation_folder(tmp_path_factory):
    """A federation of two hospitals, with its job next to it."""
    folder = tmp_path_factory.mktemp("chaos")
    chaos.prepare(folder, rounds=ROUNDS)
    try:
        federation.up(folder / "federation", data=folder / "data", own=OPEN, fork=False)
        yield folder / "federation"
    finally:
        federation.down(folder / "federation")


@pytest.fixture
def job(federation_folder):
    return federation_folder.parent / "job"


def test_a_run_survives_four_kills_and_ends_with_the_same_bytes(federation_folder, job):
    draw = random.Random(3)
    undisturbed = chaos.run(federation_folder, job, [], draw)
    assert (undisturbed.complete, undisturbed.rounds, undisturbed.jobs) == (True, ROUNDS, 1)
    kinds = [chaos.CHECKPOINTS, chaos.TRAINING, chaos.ORCHESTRATOR, chaos.HOSPITAL]
    killed = chaos.run(federation_folder, job, kinds, draw)
    assert [kind for kind, _ in killed.gaps] == kinds
    assert (killed.complete, killed.rounds) == (True, ROUNDS)
    assert killed.jobs >= 3
    assert killed.model_sha256 == undisturbed.model_sha256


def state(session, job_id):
    return describe(session.job(job_id)).state


def wait_for(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def wait_for_state(session, job_id, *states):
    wait_for(lambda: state(session, job_id) in states)
    return state(session, job_id)


def test_no_job_reads_running_when_nothing_runs_and_an_abort_ends_recovery(
    federation_folder, job, consortium
):
    kit = federation.admin_kit(federation_folder, federation.RESEARCHER)
    with open_session(kit) as session:
        first = session.submit(chaos.renew(job))
        wait_for(lambda: state(session, first) == "running")
    chaos.kill(federation_folder, chaos.ORCHESTRATOR, random.Random(0), federation_folder)
    federation.up(federation_folder, fork=False)
    with open_session(kit) as session:
        assert session.job(first)["status"] == "FINISHED:ABNORMAL"
        wait_for(lambda: session.job(first).get(NEXT))
        second = session.job(first)[NEXT]
        assert state(session, first) == "continued"
        code, printed, _ = consortium("explain", first, "--kit", kit)
        assert (code, f"- the run continues as {second}\n" in printed) == (0, True)
        wait_for(lambda: state(session, second) == "running")
        session.abort(second)
        wait_for(lambda: state(session, second) == "aborted")
        time.sleep(3)
        assert session.job(second).get(NEXT) is None
        assert not [job for job in session.jobs() if describe(job).state in GOING_ON[:3]]


def test_a_hospital_that_keeps_breaking_a_run_is_named_and_left_out(
    federation_folder, job, tmp_path, consortium
):
    kit = federation.admin_kit(federation_folder, federation.RESEARCHER)
    quorum = ["minimum=1", "retry_delay=1"]
    settings = read_json_object(job / SETTINGS)
    prepare_job(JOB, tmp_path / "few", run="", hospitals=NAMES, settings=settings, quorum=quorum)
    with open_session(kit) as session:
        newest = session.submit(tmp_path / "few")
        for _ in range(LEAVE_OUT):
            wait_for_state(session, newest, "running")
            chaos.kill(
                federation_folder,
                chaos.HOSPITAL_JOB,
                random.Random(0),
                federation_folder,
                machine="north",
            )
            wait_for_state(session, newest, "continued")
            printed = consortium("explain", newest, "--kit", kit)[1]
            assert "- north ended it: a process there failed, or an answer" in printed
            newest = session.job(newest)[NEXT]
        assert wait_for_end(session, newest) == "FINISHED:COMPLETED"
        run = describe(session.job(newest))
        assert run.state == "incomplete"
        reason = f"the run continues without north, which broke {LEAVE_OUT} jobs in a row"
        assert reason in run.reasons
        assert any(
            "north is missing from" in reason and "(left-out)" in reason for reason in run.reasons
        )


def test_a_run_that_gets_no_further_is_given_up_with_a_reason(federation_folder, job):
    with open_session(federation.admin_kit(federation_folder, federation.RESEARCHER)) as session:
        newest, jobs = session.submit(chaos.renew(job)), 1
        while wait_for_state(session, newest, "running", "failed") == "running":
            chaos.kill(
                federation_folder, chaos.ORCHESTRATOR_JOB, random.Random(0), federation_folder
            )
            wait_for_state(session, newest, "continued", "failed")
            if NEXT in session.job(newest):
                newest, jobs = session.job(newest)[NEXT], jobs + 1
        run = describe(session.job(newest))
    assert jobs <= PATIENCE + 1
    assert run.reasons[0].startswith(
        f"no-progress: {PATIENCE} jobs in a row ended without closing a round"
    )


def test_a_network_that_is_away_for_a_while_does_not_end_a_run(tmp_path):
    job = chaos.prepare(tmp_path, rounds=12)
    # Shortened like the cut: a hospital asks again after so many seconds without an answer.
    write_json(job / CLIENT_CONFIG, read_json_object(job / CLIENT_CONFIG) | {"get_task_timeout": 5})
    seal_job(job)
    with cut.linked(tmp_path) as (federation_folder, link):
        # A round here takes less than a second, and would have been given up after some ten.
        result, _ = cut.run(federation_folder, link, job, seconds=25)
    assert (result["complete"], result["rounds"], result["reason"]) == (True, 12, "")
