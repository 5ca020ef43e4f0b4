"""All steps of a study on one machine: kits, processes, submission, download."""

import pytest
from tests.conftest import JOB, TINY
from tests.flare.conftest import processes_in

from consortium.core.errors import EnvironmentProblem, Refused
from consortium.runs.local_federation import FederatedRun

pytestmark = pytest.mark.flare


def run(data, workspace, *assignments, watch=lambda view: None):
    made = FederatedRun(
        job=JOB,
        data=data,
        workspace=workspace,
        assignments=[*TINY, *assignments],
        smallest_group=1,
        smallest_training=1,
    )
    return made.run(watch)


def test_a_federation_leaves_its_results_and_no_process(generated, tmp_path):
    views = []
    result = run(generated, tmp_path / "kits", "baseline=true", watch=views.append)
    assert result["complete"], result["reason"]
    counts = [len(view.records) for view in views]
    assert counts == sorted(counts)
    assert counts[-1] == 2
    assert {name for view in views for name in view.hospitals} == {"harbour", "north", "valley"}
    left = {"report.html", "result.json", "rounds.jsonl", "model", "tensorboard"}
    assert {path.name for path in (tmp_path / "kits").iterdir()} == {*left, "job", "federation"}
    assert processes_in(tmp_path / "kits") == []
    with pytest.raises(Refused, match="workspace-in-use"):
        run(generated, tmp_path / "kits")


def test_a_run_that_cannot_start_says_why_and_leaves_no_process(generated, tmp_path, monkeypatch):
    monkeypatch.setattr("consortium.study.job_folder.__version__", "9.9")
    with pytest.raises(EnvironmentProblem) as raised:
        run(generated, tmp_path / "run")
    assert raised.value.code == "no-result"
    assert "other-version: the job was made with version 9.9" in str(raised.value)
    assert processes_in(tmp_path / "run") == []
