"""X-rays in FLARE: the rounds, then what the model learned, and training without each hospital."""

from dataclasses import replace

import pytest
from tests.conftest import ROOT

from consortium.runs.simulator import Simulation
from consortium.tasks.classification.synthetic import CLINICS, generate_radiographs

pytestmark = pytest.mark.flare

PLANTED = "PLANTED-Jane-Doe"


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


def test_three_hospitals_train_one_model_on_radiographs_and_probe_it(tmp_path, consortium):
    clinics = [replace(clinic, patients=24, held_out=20) for clinic in CLINICS[:3]]
    generate_radiographs(tmp_path / "data", seed=0, side=48, shortcut=1.0, clinics=clinics)
    plant(tmp_path / "data")
    simulation = Simulation(
        job=ROOT / "jobs" / "covid_detection",
        data=tmp_path / "data",
        workspace=tmp_path / "run",
        assignments=[
            *("rounds=2", "training.local_steps=3", "data.size=32", "network.features=[8,16]")
        ],
    )
    result = simulation.run()
    assert result["complete"], result["reason"]
    names = sorted(clinic.name for clinic in clinics)
    assert result["confounding"]["reported"] == names
    assert sorted(result["confounding"]["without"]) == names
    for name in names:
        rounds = (tmp_path / "run" / "without" / name / "rounds.jsonl").read_text().splitlines()
        assert len(rounds) == 2
        assert (
            f'"asked": {[other for other in names if other != name]}'.replace("'", '"')
            in (rounds[0])
        )
    # The orchestrator's files and the run's results name no patient and no file.
    run = tmp_path / "run"
    kept = [
        path for path in run.rglob("*") if path.is_file() and run / "hospitals" not in path.parents
    ]
    assert len(kept) > 30
    for path in kept:
        assert PLANTED.encode() not in path.read_bytes(), path
    code, out, err = consortium("evaluate", tmp_path / "run" / "model", "--data", tmp_path / "data")
    assert (code, err) == (0, "")
    assert "COVID-19" in out
