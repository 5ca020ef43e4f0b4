"""A hospital that attacks the orchestrator, played for real: the others' run goes on without it."""

import json
import shutil
from pathlib import Path

import psutil
import pytest
from tests.conftest import JOB, TINY
from tests.flare.hostile_executor import ATTACKS

from consortium.runs.simulator import Simulation
from consortium.study.job_folder import CLIENT_CONFIG, add_configuration

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
        quorum=["minimum=2", "max_attempts=6"],
        smallest_group=1,
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
