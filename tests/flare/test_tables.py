"""The tabular task in FLARE; it uses the same rounds, checkpoints and page as the others."""

import pytest
from tests.conftest import ROOT

from consortium.models.bundle import load_bundle
from consortium.runs.simulator import Simulation
from consortium.tasks.tabular.synthetic import CLINICS, generate_tables

pytestmark = pytest.mark.flare


def test_four_hospitals_with_tables_train_one_model(tmp_path, consortium):
    generate_tables(tmp_path / "data", seed=0)
    simulation = Simulation(
        job=ROOT / "jobs" / "heart_disease",
        data=tmp_path / "data",
        workspace=tmp_path / "run",
        assignments=["rounds=3", "training.local_steps=50", "baseline=true"],
    )
    result = simulation.run()
    assert result["complete"], result["reason"]
    assert {row["name"] for row in result["hospitals"]} == {clinic.name for clinic in CLINICS}
    for row in result["hospitals"]:
        for model in ("federated", "local"):
            assert set(row[model]["figures"]) == {"accuracy", "AUROC"}
    assert result["final"]["score"] > 0.5
    for name in ("report.html", "rounds.jsonl", "tensorboard", "model"):
        assert (tmp_path / "run" / name).exists()
    settings, _ = load_bundle(tmp_path / "run" / "model", "cpu")
    assert settings.task == "tabular"
    code, out, err = consortium("evaluate", tmp_path / "run" / "model", "--data", tmp_path / "data")
    assert (code, err) == (0, "")
    assert "AUROC" in out
