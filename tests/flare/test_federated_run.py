"""A study on one machine that cannot start; `test_same_bytes` has what one leaves that ends."""

import pytest
from tests.conftest import JOB, TINY
from tests.flare.conftest import processes_in

from consortium.core.errors import EnvironmentProblem
from consortium.runs.local_federation import FederatedRun

pytestmark = pytest.mark.flare


def test_a_run_that_cannot_start_says_why_and_leaves_no_process(generated, tmp_path, monkeypatch):
    monkeypatch.setattr("consortium.study.job_folder.__version__", "9.9")
    run = FederatedRun(job=JOB, data=generated, workspace=tmp_path / "run", assignments=TINY)
    with pytest.raises(EnvironmentProblem) as raised:
        run.run()
    assert raised.value.code == "no-result"
    assert "other-version: the job was made with version 9.9" in str(raised.value)
    assert processes_in(tmp_path / "run") == []
