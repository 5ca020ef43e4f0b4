"""The same bytes from all three engines, for every task; and what is checked on these runs.

Runs of FLARE are dear, so that each of these also shows what is special to its task: compressed
updates and what a federation leaves (scans), evaluation of the model (tables), the probe and the
training without each hospital (X-rays).
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import ROOT, TINY
from tests.flare.conftest import processes_in

from consortium.core.errors import Refused
from consortium.models.bundle import load_bundle
from consortium.protocol.compression import ResidualStore
from consortium.runs.in_process import InProcessRun
from consortium.runs.local_federation import FederatedRun
from consortium.runs.simulator import Simulation
from consortium.tasks.classification.synthetic import CLINICS, generate_radiographs
from consortium.tasks.tabular.synthetic import CLINICS as TABLE_CLINICS
from consortium.tasks.tabular.synthetic import generate_tables

ALL = ["baseline=true", "cross_site=true"]
COMPRESSED = ["network.features=[16, 32]", "update.compression=int8"]
TABLES = ["rounds=3", "training.local_steps=20"]
XRAYS = ["rounds=2", "training.local_steps=2", "training.batch=8", "data.size=32"]
XRAYS += ["network.features=[8,8]", "confounding.pictures=1"]
PLANTED = "PLANTED-Jane-Doe"
NAMES = ["harbour", "north", "valley"]

pytestmark = pytest.mark.flare


def scans(folder, generated):
    changes = [*TINY, *ALL, *COMPRESSED]
    return {"job": "tumor_segmentation", "data": generated, "assignments": changes}


def tables(folder, generated):
    generate_tables(folder / "data", seed=3)
    return {"job": "heart_disease", "data": folder / "data", "assignments": [*TABLES, *ALL]}


def radiographs(folder, generated):
    clinics = [replace(clinic, patients=30, held_out=24) for clinic in CLINICS[:3]]
    generate_radiographs(folder / "data", seed=1, side=48, shortcut=1.0, clinics=clinics)
    plant(folder / "data")
    return {"job": "covid_detection", "data": folder / "data", "assignments": XRAYS}


def plant(data):
    """Patients' identifiers in ids and in the names of files."""
    for hospital in data.iterdir():
        table = (hospital / "labels.csv").read_text().splitlines()
        lines = [table[0]]
        for line in table[1:]:
            file, patient, *rest = line.split(",")
            (hospital / "images" / file).rename(hospital / "images" / f"{PLANTED}-{file}")
            lines.append(",".join([f"{PLANTED}-{file}", f"{PLANTED}-{patient}", *rest]))
        (hospital / "labels.csv").write_text("\n".join(lines) + "\n")


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


ENGINES = {"in-process": InProcessRun, "simulator": Simulation, "kits": FederatedRun}


@dataclass
class Runs:
    """A job's run on every engine, in a folder each, and how the one with kits was seen."""

    folder: Path
    wanted: dict[str, Any]
    results: dict[str, Any]
    views: list[Any]


def run_everywhere(folder, wanted):
    wanted["job"] = ROOT / "jobs" / wanted["job"]
    results, views = {}, []
    for name, engine in ENGINES.items():
        run = engine(workspace=folder / name, smallest_group=1, smallest_training=1, **wanted)
        results[name] = run.run(views.append if name == "kits" else lambda view: None)
    return Runs(folder, wanted, results, views)


def check_same(runs):
    first = runs.results["in-process"]
    assert (first["complete"], first["reason"]) == (True, "")
    model = (runs.folder / "in-process" / "model" / "models" / "model.safetensors").read_bytes()
    for name in ("simulator", "kits"):
        assert without_times(runs.results[name]) == without_times(first), name
        workspace = runs.folder / name
        assert records(workspace) == records(runs.folder / "in-process"), name
        assert (workspace / "model" / "models" / "model.safetensors").read_bytes() == model, name
        left = {path.name for path in workspace.iterdir()}
        assert left >= {"report.html", "result.json", "rounds.jsonl", "model", "tensorboard"}


def check_federation(runs):
    """A federation reports its progress and leaves its results and no process."""
    counts = [len(view.records) for view in runs.views]
    assert counts == sorted(counts)
    assert counts[-1] == 2
    assert {name for view in runs.views for name in view.hospitals} == set(NAMES)
    workspace = runs.folder / "kits"
    left = {"report.html", "result.json", "rounds.jsonl", "model", "tensorboard"}
    assert {path.name for path in workspace.iterdir()} == {*left, "job", "federation"}
    assert processes_in(workspace) == []
    with pytest.raises(Refused, match="workspace-in-use"):
        FederatedRun(
            workspace=workspace, smallest_group=1, smallest_training=1, **runs.wanted
        ).run()


def test_scans_with_compressed_updates(generated, tmp_path):
    runs = run_everywhere(tmp_path, scans(tmp_path, generated))
    check_same(runs)
    check_federation(runs)
    for name in NAMES:
        [*_, last] = sorted((tmp_path / "simulator" / "hospitals" / name).rglob("residual-*"))
        residual = ResidualStore(last.parent).load(before_round=99)
        assert 0 < np.abs(residual).max() < 0.01
    assert all(row is not None for row in runs.results["simulator"]["cross_site"].values())


def test_tables_whose_model_is_evaluated(generated, tmp_path, consortium):
    runs = run_everywhere(tmp_path, tables(tmp_path, generated))
    check_same(runs)
    result = runs.results["simulator"]
    assert {row["name"] for row in result["hospitals"]} == {clinic.name for clinic in TABLE_CLINICS}
    for row in result["hospitals"]:
        for model in ("federated", "local"):
            assert set(row[model]["figures"]) == {"accuracy", "AUROC"}
    assert result["final"]["score"] > 0.5
    model = tmp_path / "simulator" / "model"
    settings, _ = load_bundle(model, "cpu")
    assert settings.task == "tabular"
    code, out, err = consortium("evaluate", model, "--data", tmp_path / "data")
    assert (code, err) == (0, "")
    assert "AUROC" in out


def test_radiographs_with_the_probe_and_training_without_each_hospital(
    generated, tmp_path, consortium
):
    runs = run_everywhere(tmp_path, radiographs(tmp_path, generated))
    check_same(runs)
    run, result = tmp_path / "simulator", runs.results["simulator"]
    assert result["confounding"]["reported"] == sorted(NAMES)
    assert sorted(result["confounding"]["without"]) == sorted(NAMES)
    for name in NAMES:
        rounds = (run / "without" / name / "rounds.jsonl").read_text().splitlines()
        assert len(rounds) == 2
        assert json.loads(rounds[0])["asked"] == [each for each in NAMES if each != name]
    # The orchestrator's files and the run's results name no patient and no file.
    kept = [
        path for path in run.rglob("*") if path.is_file() and run / "hospitals" not in path.parents
    ]
    assert len(kept) > 30
    for path in kept:
        assert PLANTED.encode() not in path.read_bytes(), path
    code, out, err = consortium("evaluate", run / "model", "--data", tmp_path / "data")
    assert (code, err) == (0, "")
    assert "COVID-19" in out
