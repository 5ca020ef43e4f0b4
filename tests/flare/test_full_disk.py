"""A run whose orchestrator cannot write ends stopped, with the reason, and is not repeated."""

import time

import pytest
from tests.disks import fill, mounted
from tests.flare.conftest import wait_for_end

from consortium.flare.session import open_session
from consortium.runs import federation
from consortium.runs.status import describe

pytestmark = pytest.mark.flare


def test_a_run_whose_orchestrator_cannot_write_is_stopped_and_not_repeated(workspace, job):
    kit = federation.admin_kit(workspace, federation.RESEARCHER)
    orchestrator = workspace / "machines" / federation.ORCHESTRATOR / "consortium"
    with open_session(kit) as session, mounted(orchestrator, 1 << 20) as disk:
        fill(disk)
        before = len(session.jobs())
        submitted = session.submit(job)
        wait_for_end(session, submitted)
        deadline = time.monotonic() + 60
        while describe(session.job(submitted)).state in ("interrupted", "continued"):
            assert time.monotonic() < deadline, session.job(submitted)
            time.sleep(0.2)
        ended = describe(session.job(submitted))
        assert (ended.state, len(session.jobs()) - before) == ("failed", 1)
        assert any("disk-full" in reason for reason in ended.reasons), ended
