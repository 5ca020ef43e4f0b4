"""Two jobs and one GPU per hospital, in a real federation. `nvidia-smi` is a script that shows it.

Nothing trains on a GPU here: the tests check which job's process sees which one, and when.
"""

import contextlib
import os
import time

import psutil
import pytest
from tests.conftest import JOB, TINY
from tests.flare.conftest import OPEN, wait_for_end
from tests.flare.nvidia_smi import SMI

from consortium.flare.session import open_session
from consortium.orchestration.recovery import NEXT
from consortium.runs import federation
from consortium.runs.status import describe
from consortium.study.job_folder import export_job

pytestmark = pytest.mark.flare


@pytest.fixture
def federation_folder(generated, tmp_path, monkeypatch):
    """A federation of two hospitals that state one GPU each, of the two that they show."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvidia-smi").write_text(SMI)
    (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    federation_folder, own = tmp_path / "run", {**OPEN, "gpus": 1, "gpu_memory": 16}
    data = tmp_path / "data"
    data.mkdir()
    for name in ("harbour", "north"):
        (data / name).symlink_to(generated / name)
    try:
        federation.up(federation_folder, data=data, own=own)
        yield federation_folder
    finally:
        federation.down(federation_folder)


def processes_of(job_id):
    """The hospitals' processes of a job."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if "nvflare.private.fed.app.client.worker_process" in words and job_id in words:
                yield process


def gpus_seen_by(job_id):
    """The GPUs that each hospital's process of a job sees, while it runs."""
    seen = {}
    for process in processes_of(job_id):
        with contextlib.suppress(psutil.Error):
            seen[process.pid] = process.environ().get("CUDA_VISIBLE_DEVICES")
    return seen


def wait_for(condition, describe_state, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, describe_state()
        time.sleep(0.2)


def test_a_job_waits_for_the_gpus_of_the_one_before_it_and_then_runs(
    federation_folder, tmp_path, consortium
):
    hospitals, longer = ["harbour", "north"], [*TINY, "rounds=40"]
    for name in ("first", "second"):
        out = tmp_path / name
        export_job(JOB, out, hospitals=hospitals, assignments=longer, with_package=False)
    kit = federation.admin_kit(federation_folder, federation.RESEARCHER)
    with open_session(kit) as session:
        first = session.submit(tmp_path / "first")
        wait_for(lambda: len(gpus_seen_by(first)) == 2, lambda: session.job(first))
        assert set(gpus_seen_by(first).values()) == {"0"}
        second = session.submit(tmp_path / "second")
        wait_for(lambda: session.job(second).get("schedule_history"), lambda: session.job(second))
        assert describe(session.job(first)).state == "running"
        assert gpus_seen_by(second) == {}
        code, printed, errors = consortium("explain", second, "--kit", kit)
        assert (code, errors) == (0, "")
        assert "0 hospitals have the resources it asks for, and it needs 2" in printed
        assert "- it asks north for 1 GPU, or for its CPU if it has none" in printed
        assert f"- {first[:8]} of {federation.RESEARCHER} is running" in printed
        assert wait_for_end(session, first) == "FINISHED:COMPLETED"
        wait_for(lambda: len(gpus_seen_by(second)) == 2, lambda: session.job(second))
        assert gpus_seen_by(first) == {}
        assert set(gpus_seen_by(second).values()) == {"0"}
        assert wait_for_end(session, second) == "FINISHED:COMPLETED"


def test_a_job_behind_one_that_dies_starts_and_that_run_goes_on_too(federation_folder, tmp_path):
    hospitals, kit = (
        ["harbour", "north"],
        federation.admin_kit(federation_folder, federation.RESEARCHER),
    )
    for name, rounds in (("long", 40), ("short", 2)):
        longer = [*TINY, f"rounds={rounds}"]
        where = tmp_path / name
        export_job(JOB, where, hospitals=hospitals, assignments=longer, with_package=False)
    with open_session(kit) as session:
        first = session.submit(tmp_path / "long")
        wait_for(lambda: len(gpus_seen_by(first)) == 2, lambda: session.job(first))
        second = session.submit(tmp_path / "short")
        wait_for(lambda: session.job(second).get("schedule_history"), lambda: session.job(second))
        next(processes_of(first)).kill()
        wait_for(lambda: session.job(first).get(NEXT), lambda: session.job(first))
        third = session.job(first)[NEXT]
        for job_id in (second, third):
            assert wait_for_end(session, job_id) == "FINISHED:COMPLETED"
            assert describe(session.job(job_id)).state == "finished"
