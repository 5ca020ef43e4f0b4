"""The same bytes from all three engines, for every task."""

import json
from dataclasses import replace

import pytest
from tests.conftest import ROOT, TINY

from consortium.runs.in_process import InProcessRun
from consortium.runs.local_federation import FederatedRun
from consortium.runs.simulator import Simulation
from consortium.tasks.classification.synthetic import CLINICS, generate_radiographs
from consortium.tasks.tabular.synthetic import generate_tables

ALL = ["baseline=true", "cross_site=true"]
TABLES = ["rounds=3", "training.local_steps=20"]
XRAYS = ["rounds=2", "training.local_steps=2", "training.batch=8", "data.size=32"]
XRAYS += ["network.features=[8,8]", "confounding.pictures=1", "confounding.leave_one_out=false"]


def scans(folder, generated):
    return {"job": "tumor_segmentation", "data": generated, "assignments": [*TINY, *ALL]}


def tables(folder, generated):
    generate_tables(folder / "data", seed=3)
    return {"job": "heart_disease", "data": folder / "data", "assignments": [*TABLES, *ALL]}


def radiographs(folder, generated):
    clinics = [replace(clinic, patients=30, held_out=24) for clinic in CLINICS]
    generate_radiographs(folder / "data", seed=1, side=48, clinics=clinics)
    return {"job": "covid_detection", "data": folder / "data", "assignments": XRAYS}


def without_times(raw):
    """A result without what differs between two runs: the run's id, durations and versions."""
    if isinstance(raw, dict):
        return {
            key: without_times(value)
            for key, value in raw.items()
            if key not in ("seconds", "run", "versions")
        }
    return [without_times(value) for value in raw] if isinstance(raw, list) else raw


def records(workspace):
    lines = (workspace / "rounds.jsonl").read_text(encoding="utf-8").splitlines()
    return [without_times(json.loads(line)) for line in lines]


@pytest.mark.flare
@pytest.mark.parametrize("task", [scans, tables, radiographs])
def test_every_engine_gives_the_same_bytes(task, generated, tmp_path):
    wanted = task(tmp_path, generated)
    wanted["job"] = ROOT / "jobs" / wanted["job"]
    engines = {"in-process": InProcessRun, "simulator": Simulation, "kits": FederatedRun}
    results = {
        name: engine(
            workspace=tmp_path / name, smallest_group=1, smallest_training=1, **wanted
        ).run()
        for name, engine in engines.items()
    }
    first = results.pop("in-process")
    assert first["complete"], first["reason"]
    model = (tmp_path / "in-process" / "model" / "models" / "model.safetensors").read_bytes()
    for name, result in results.items():
        assert without_times(result) == without_times(first), name
        assert records(tmp_path / name) == records(tmp_path / "in-process"), name
        path = tmp_path / name / "model" / "models" / "model.safetensors"
        assert path.read_bytes() == model, name
        left = {path.name for path in (tmp_path / name).iterdir()}
        assert left >= {"report.html", "result.json", "rounds.jsonl", "model", "tensorboard"}
