"""A running federation of three hospitals, for all tests that need one."""

import contextlib
import time

import psutil
import pytest
from tests.conftest import JOB, TINY

from consortium.client.fork_server import ADDRESS
from consortium.core.json_files import read_json_object
from consortium.core.site_policy import simulated_privacy
from consortium.runs import federation
from consortium.settings.base import override
from consortium.study.job_folder import SETTINGS, prepare_job

HOSPITALS = ["harbour", "north", "valley"]
OPEN = {"privacy": simulated_privacy(1).model_dump()}
"""Own choices of hospitals whose patients are generated and few."""


@pytest.fixture(scope="module", autouse=True)
def forked(fork_address):
    """Trainers come from one fork server; `test_kills` starts its federation without."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ADDRESS, fork_address)
        yield


@pytest.fixture(scope="session")
def workspace(generated, tmp_path_factory, fork_address):
    """A running federation of three hospitals."""
    place = tmp_path_factory.mktemp("federation") / "run"
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(ADDRESS, fork_address)
            federation.up(place, data=generated, own=OPEN)
        yield place
    finally:
        federation.down(place)


@pytest.fixture
def prepare():
    """Writes the job as a researcher prepares it, configuration only; each is one run."""

    def write(folder):
        settings = override(read_json_object(JOB / SETTINGS), TINY)
        prepare_job(JOB, folder, run="", hospitals=HOSPITALS, settings=settings)
        return folder

    return write


@pytest.fixture
def job(prepare, tmp_path):
    """A job as a researcher prepares it."""
    return prepare(tmp_path / "job")


def wait_for_end(session, job_id, seconds=300):
    deadline = time.monotonic() + seconds
    while not str(session.job(job_id)["status"]).startswith("FINISHED"):
        assert time.monotonic() < deadline, session.job(job_id)
        time.sleep(0.5)
    return session.job(job_id)["status"]


def processes_in(folder):
    """Ids of the processes that name a folder on their command line."""
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie is one too
            if any(str(folder) in word for word in process.cmdline()):
                processes.append(process.pid)
    return processes
