"""No process of a run outlives the one that started it, even if that one is killed."""

import contextlib
import subprocess
import sys
import time

import psutil
import pytest
from tests.conftest import ROOT

from consortium.runs.process_guard import guarded

RUN = """
import os, subprocess, sys, time
from consortium.runs.process_guard import guarded
child = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time;"
child += " time.sleep(600)'], start_new_session=True); time.sleep(600)"
with guarded(os.environ) as environment:
    for _ in range(2):
        subprocess.Popen([sys.executable, "-c", child], env=environment, start_new_session=True)
    print("started", flush=True)
    time.sleep(600)
"""


def wait_until(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def running(processes):
    alive = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
    return alive


def kill_and_see_the_rest_end(process):
    started = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    try:
        wait_until(lambda: not running(started))
    finally:
        for left in running(started):
            left.kill()


def test_children_in_sessions_of_their_own_end_with_a_killed_run():
    process = subprocess.Popen([sys.executable, "-c", RUN], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "started\n"
    # The run, two children and two of theirs, and the guard.
    wait_until(lambda: len(psutil.Process(process.pid).children(recursive=True)) == 5)
    kill_and_see_the_rest_end(process)
    process.communicate()


def test_the_end_of_the_context_ends_what_is_left_and_nothing_else(monkeypatch):
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    with subprocess.Popen(sleep) as other:
        with guarded({}) as environment:
            marked = subprocess.Popen(sleep, env=environment, start_new_session=True)
        assert marked.wait() == -9
        assert other.poll() is None
        other.kill()


@pytest.mark.parametrize("engine", ["in-process", pytest.param("flare", marks=pytest.mark.flare)])
def test_a_killed_simulation_leaves_no_process(clinics, tmp_path, engine):
    command = [sys.executable, "-m", "consortium.cli.simulate", ROOT / "jobs" / "heart_disease"]
    command += ["--data", clinics, "--workspace", tmp_path / "run", "--engine", engine]
    process = subprocess.Popen(
        [*command, "--rounds", "1000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_until((tmp_path / "run" / "rounds.jsonl").is_file)
    kill_and_see_the_rest_end(process)
