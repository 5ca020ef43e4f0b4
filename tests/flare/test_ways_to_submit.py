"""FLARE's own console and command line, driven as a researcher does, and jobs beside each other."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pexpect
import pytest
from tests.flare.conftest import HOSPITALS, wait_for_end

from consortium.core.files import write_json
from consortium.core.json_files import read_json_object
from consortium.flare.session import open_session
from consortium.runs import federation
from consortium.runs.status import describe
from consortium.study.job_folder import STUDY, seal_job

pytestmark = pytest.mark.flare

BINARIES = Path(sys.executable).parent
ENVIRONMENT = {**os.environ, "PATH": f"{BINARIES}:{os.environ['PATH']}", "TERM": "dumb"}


@pytest.fixture
def kit(workspace):
    return federation.admin_kit(workspace, federation.RESEARCHER)


def ask(console, command, answer):
    """Types a command and returns what matches in the answer."""
    console.sendline(command)
    console.expect(answer)
    match = console.match
    console.expect_exact("\n> ")
    return match


def test_the_console_submits_lists_and_downloads(kit, job):
    console = pexpect.spawn(
        str(kit / "startup" / "fl_admin.sh"), env=ENVIRONMENT, encoding="utf-8", timeout=30
    )
    console.setwinsize(50, 200)
    console.expect("User Name: ")
    console.sendline(federation.RESEARCHER)
    console.expect_exact("\n> ")
    for name in HOSPITALS:
        ask(console, "check_status server", rf"{name}\b")
    job_id = ask(console, f"submit_job {job}", r"[Ss]ubmitted job:? (\S+)")[1]
    deadline = time.monotonic() + 120
    while True:
        status = ask(
            console, "list_jobs", rf"{job_id}.*?(RUNNING|DISPATCHED|SUBMITTED|FINISHED\S*)"
        )
        if status[1].startswith("FINISHED"):
            break
        assert time.monotonic() < deadline
        time.sleep(1)
    assert status[1] == "FINISHED:COMPLETED"
    ask(console, f"download_job {job_id}", "[Dd]one|downloaded|Download")
    console.sendline("bye")
    console.expect(pexpect.EOF)
    left = kit / "transfer" / job_id / "workspace" / "consortium"
    assert json.loads((left / "result.json").read_text())["complete"]


def test_flares_command_line_submits_and_downloads(kit, job, tmp_path):
    def nvflare(*words):
        command = [BINARIES / "nvflare", "--format", "json", "job", *words]
        done = subprocess.run(
            [*command, "--startup-kit", kit / "startup"],
            env={**ENVIRONMENT, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return json.loads(done.stdout.strip().splitlines()[-1])["data"]

    copy = tmp_path / "copy"  # FLARE signs in place
    shutil.copytree(job, copy)
    job_id = nvflare("submit", "-j", copy)["job_id"]
    with open_session(kit) as session:
        assert wait_for_end(session, job_id) == "FINISHED:COMPLETED"
    left = Path(nvflare("download", job_id, "-o", tmp_path / "down")["path"])
    result = json.loads((left / "workspace" / "consortium" / "result.json").read_text())
    assert result["complete"]


def test_two_jobs_train_at_once_and_do_not_mix(kit, job, prepare, tmp_path):
    with open_session(kit) as session:
        ids = [session.submit(job), session.submit(prepare(tmp_path / "second"))]
        deadline = time.monotonic() + 60
        while any(describe(session.job(i)).state in ("waiting", "starting") for i in ids):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        states = [describe(session.job(i)).state for i in ids]
        assert "failed" not in states
        assert [wait_for_end(session, i) for i in ids] == ["FINISHED:COMPLETED"] * 2
        results = [
            json.loads((path / "workspace" / "consortium" / "result.json").read_text())
            for path in (session.download(i, tmp_path / "down") for i in ids)
        ]
    assert [result["run"] for result in results] == ids
    assert results[0]["model_sha256"] == results[1]["model_sha256"]


def test_a_job_waits_for_what_a_hospital_lacks_and_says_so(kit, job):
    for file in ("meta.json", STUDY):
        content = read_json_object(job / file)
        content["resource_spec"]["north"] = {"num_of_gpus": 1, "mem_per_gpu_in_GiB": 8}
        write_json(job / file, content)
    seal_job(job)
    with open_session(kit) as session:
        job_id = session.submit(job)
        deadline = time.monotonic() + 60
        while not any(
            "1 GPU of 8 GiB" in reason for reason in describe(session.job(job_id)).reasons
        ):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        reasons = describe(session.job(job_id)).reasons
        session.abort(job_id)
    assert re.match("2 hospitals have the resources it asks for, and it needs 3", reasons[0])
    assert "it asks north for 1 GPU of 8 GiB" in reasons
