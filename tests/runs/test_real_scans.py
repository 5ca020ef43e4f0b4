"""A run with a few real scans, if they are available; the job's README has figures of many."""

import json
import shutil

import pytest
from tests.conftest import JOB, LGG, TINY, needs_real_data

from consortium.runs.in_process import InProcessRun

pytestmark = needs_real_data


@pytest.fixture
def few(tmp_path):
    """Six patients of each of two hospitals, one of them for validation."""
    for name in ("case_western", "thomas_jefferson"):
        source, folder = LGG / name, tmp_path / "lgg" / name
        raw = json.loads((source / "dataset.json").read_text())
        entries = raw["training"][:6]
        for entry in entries:
            for key in ("image", "label"):
                target = folder / entry[key]
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source / entry[key], target)
        raw |= {"training": entries[:5], "validation": entries[5:], "numTraining": 5}
        (folder / "dataset.json").write_text(json.dumps(raw))
    return tmp_path / "lgg"


def test_hospitals_learn_from_real_scans_together(few, tmp_path, consortium):
    assert consortium("check-data", few / "case_western", "--job", JOB)[0] == 0
    workspace = tmp_path / "workspace"
    result = InProcessRun(
        job=JOB,
        data=few,
        workspace=workspace,
        assignments=[*TINY, "data.size=[64,64]", "training.local_steps=20", "training.batch=8"],
        smallest_group=1,
        smallest_training=1,
        workers=1,
        render=False,
    ).run()
    assert (result["complete"], result["reason"]) == (True, "")
    assert [row["cases"] for row in result["hospitals"]] == [{"training": 5, "validation": 1}] * 2
    losses = [
        [metrics["loss"] for metrics in json.loads(line)["metrics"].values()]
        for line in (workspace / "rounds.jsonl").read_text().splitlines()
    ]
    assert sum(losses[1]) < sum(losses[0])
    scores = tmp_path / "scores.json"
    arguments = ("evaluate", workspace / "model", "--data", few, "--json", scores)
    assert consortium(*arguments)[0] == 0
    assert len(json.loads(scores.read_text())["cases"]) == 12
