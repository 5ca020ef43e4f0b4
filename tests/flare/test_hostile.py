"""A hospital that attacks the orchestrator, played for real: the others' run goes on without it."""

import json
import os
import shutil
import time
from pathlib import Path

import psutil
import pytest
from tests.conftest import JOB, TINY
from tests.flare.conftest import HOSPITALS, OPEN, wait_for_end
from tests.flare.hostile_executor import ATTACKS

from consortium.core.json_files import read_json_object
from consortium.flare.session import open_session
from consortium.orchestration.recovery import LEAVE_OUT, NEXT
from consortium.runs import federation
from consortium.runs.simulator import Simulation
from consortium.runs.status import describe
from consortium.settings.base import override
from consortium.study.job_folder import CLIENT_CONFIG, SETTINGS, add_configuration, prepare_job

pytestmark = pytest.mark.flare


def hostile_job(tmp_path):
    """The job, with the executor of `hostile_executor` in its own code."""
    job = tmp_path / "hostile"
    shutil.copytree(JOB, job)
    add_configuration(job)
    custom = job / "app" / "custom"
    custom.mkdir()
    shutil.copy(Path(__file__).with_name("hostile_executor.py"), custom)
    config = job / CLIENT_CONFIG
    ours = "consortium.flare.client.components.HospitalExecutor"
    config.write_text(config.read_text().replace(ours, "hostile_executor.HostileExecutor"))
    return job


def largest_orchestrator():
    """Bytes that the largest of the orchestrator's processes has had at most so far."""
    most = 0
    for process in psutil.Process().children(recursive=True):
        try:
            if "nvflare.private.fed.app.simulator.simulator" in process.cmdline():
                status = Path(f"/proc/{process.pid}/status").read_text()
                [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
                most = max(most, 1024 * int(line.split()[1]))
        except (psutil.Error, OSError, ValueError):  # it has ended
            continue
    return most


def test_no_attack_of_a_hospital_stops_the_others(generated, tmp_path):
    largest = []
    result = Simulation(
        job=hostile_job(tmp_path),
        data=generated,
        workspace=tmp_path / "workspace",
        assignments=[*TINY, "rounds=8"],
        quorum=["minimum=2", "max_attempts=6", "deadline=300"],
        smallest_group=1,
        smallest_training=1,
    ).run(lambda view: largest.append(largest_orchestrator()))
    lines = (tmp_path / "workspace" / "rounds.jsonl").read_text().splitlines()
    rounds = [json.loads(line) for line in lines]
    assert [record["answered"] for record in rounds] == [["harbour", "north"]] * 8
    assert rounds[0]["failures"] == {"valley": "task-unknown"}
    codes = [
        {refusal["code"] for refusal in record["refused"]} - {"late"} for record in rounds[1:7]
    ]
    assert dict(zip(ATTACKS[1:], codes, strict=True)) == {
        "large-array": {"too-many-bytes"},
        "large-message": {"too-many-bytes"},
        "nesting": {"too-many-values"},
        "unknown-type": {"malformed"},
        "many-values": {"too-many-values"},
        "false-contents": {"too-many-values"},
    }
    # Refused in six rounds in a row, it is not asked any more, and named.
    assert rounds[7]["failures"] == {"valley": "left-out"}
    assert not result["complete"]
    assert result["reason"].startswith("valley is missing from rounds 1 to 8 (task-unknown)")
    assert [flagged["hospital"] for flagged in result["flagged"]] == ["valley"]
    # It has 440 MB without an attack, and had 3 GB for the large message.
    assert 0 < max(largest) < 10**9


CRASHES = """
import os, sys

if any("app.server.runner_process" in word for word in sys.orig_argv):
    from consortium.flare.server import intake

    def check_or_crash(message, *limits, check=intake.check_message):
        if b"valley" in message:
            os._exit(1)
        check(message, *limits)

    intake.check_message = check_or_crash
"""
"""Lets the orchestrator's job process die while it reads an answer of valley, as if a limit were
missing; Python imports it at its start."""


def test_a_hospital_whose_answers_end_the_job_is_named_and_left_out(generated, tmp_path):
    (tmp_path / "patch").mkdir()
    (tmp_path / "patch" / "sitecustomize.py").write_text(CRASHES)
    settings = override(read_json_object(JOB / SETTINGS), TINY)
    quorum = ["minimum=2", "retry_delay=1"]
    job = tmp_path / "job"
    prepare_job(JOB, job, run="", hospitals=HOSPITALS, settings=settings, quorum=quorum)
    workspace = tmp_path / "federation"
    try:
        with pytest.MonkeyPatch.context() as patch:
            path = os.environ.get("PYTHONPATH", "")
            patch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "patch"), path]))
            federation.up(workspace, data=generated, own=OPEN)
        with open_session(federation.admin_kit(workspace, federation.RESEARCHER)) as session:
            newest = session.submit(job)
            for _ in range(LEAVE_OUT):
                deadline = time.monotonic() + 300
                while not session.job(newest).get(NEXT):
                    assert time.monotonic() < deadline, session.job(newest)
                    time.sleep(0.5)
                assert describe(session.job(newest)).reasons[0].startswith("valley ended it")
                newest = session.job(newest)[NEXT]
            assert wait_for_end(session, newest) == "FINISHED:COMPLETED"
            run = describe(session.job(newest))
    finally:
        federation.down(workspace)
    assert run.state == "incomplete"
    assert f"the run continues without valley, which broke {LEAVE_OUT} jobs in a row" in run.reasons
    assert any("valley is missing from" in reason for reason in run.reasons)
