"""Keys in clear are gone when the process that needed them is, however it ended."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tests.conftest import ROOT

from consortium.membership.private_folder import private_folder

SHARED = Path("/dev/shm")
HELD = """
import sys, time
from consortium.membership.private_folder import private_folder
with private_folder() as folder:
    (folder / "root.key").write_text("secret")
    print(folder, flush=True)
    time.sleep(600)
"""


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def with_keys():
    """Files in memory that hold a private key."""
    found = set()
    for folder, _, names in os.walk(SHARED):
        for path in (Path(folder) / name for name in names):
            with contextlib.suppress(OSError):  # gone again
                if path.is_file() and b"PRIVATE KEY" in path.read_bytes():
                    found.add(path)
    return found


@pytest.fixture
def holder():
    """A process that holds keys, and their folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HELD], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    folder = Path(process.stdout.readline().strip())
    assert (folder / "root.key").is_file()
    assert folder.stat().st_mode & 0o777 == 0o700
    yield process, folder
    process.kill()
    process.communicate()


@pytest.mark.skipif(not SHARED.is_dir(), reason="this machine has no storage in memory")
def test_a_killed_provision_create_leaves_no_key_in_memory(tmp_path):
    before = with_keys()
    project = ROOT / "provisioning" / "project.yml"
    process = subprocess.Popen(
        [sys.executable, "-m", "consortium.cli.provision", "create", "--project", project,
         "--out", tmp_path / "out"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_until(lambda: with_keys() - before)
    process.kill()
    process.wait()
    wait_until(lambda: not with_keys() - before)


@pytest.mark.parametrize("kill", [os.kill, os.killpg])
def test_the_folder_goes_with_its_process(holder, kill):
    process, folder = holder
    kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not folder.exists())


def test_what_two_kills_have_left_goes_at_the_next_call(holder):
    process, folder = holder
    [watcher] = psutil.Process(process.pid).children()
    watcher.kill()
    process.kill()
    process.wait()
    assert (folder / "root.key").is_file()
    with private_folder() as other:
        assert not folder.exists()
        assert other.is_dir()
    assert not other.exists()


def test_a_folder_in_use_is_left_alone(holder):
    _, folder = holder
    with private_folder():
        assert (folder / "root.key").is_file()
