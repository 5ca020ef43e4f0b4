"""The benchmark of a 3-D job, on generated scans and with fixed figures."""

import json

import pytest
from scripts.benchmarks import hippocampus
from scripts.benchmarks.hippocampus import FEDERATED, PASSES, STEPS, Plan, compare, means
from tests.conftest import JOB

from consortium.cli.run import run_app
from consortium.tasks.folders import hospital_folders
from consortium.tasks.registry import load_settings
from consortium.tasks.segmentation.datalist import read_datalist

PATIENTS = ("a", "b", "c", "d")


def dice(*values):
    """Dice of two structures; the second is 0.1 lower."""
    return {p: {"x": v, "y": v - 0.1} for p, v in zip(PATIENTS, values, strict=True)}


def test_the_target_applies_to_the_better_centralised_model():
    scores = {
        FEDERATED: dice(0.80, 0.84, 0.78, 0.86),
        PASSES: dice(0.81, 0.84, 0.79, 0.90),
        STEPS: dice(0.70, 0.75, 0.71, 0.80),
    }
    assert means(scores[FEDERATED]) == pytest.approx({"x": 0.82, "y": 0.72, "mean": 0.77})
    compared = {(row.model, row.structure): row for row in compare(scores, -0.02)}
    assert set(compared) == {(m, s) for m in (PASSES, STEPS) for s in ("x", "y", "mean")}
    best = compared[PASSES, "mean"]
    assert (best.difference, best.target, best.met) == (pytest.approx(-0.015), -0.02, True)
    assert best.interval[0] < -0.015 < best.interval[1] <= 0
    assert [row for row in compared.values() if row.target is not None] == [best]
    assert compared[STEPS, "mean"].difference == pytest.approx(0.08)
    [worse] = [row for row in compare(scores, -0.01) if row.target is not None]
    assert worse.met is False
    assert all(row.met is None for row in compare(scores, None))


def test_every_patient_is_in_the_test_or_at_one_hospital(generated, tmp_path):
    data = generated / "north"
    plan = Plan(data, test=2)
    test, dealt = plan.split()
    everyone = sorted([*test, *(patient for patients in dealt.values() for patient in patients)])
    assert everyone == sorted(case.patient for case in read_datalist(data).cases)
    assert [len(test), *map(len, dealt.values())] == [2, 2, 2, 1]
    assert Plan(data, test=2).split()[1] == dealt
    hippocampus.write_hospitals(data, dealt, tmp_path)
    for name, folder in hospital_folders(tmp_path).items():
        assert sorted(case.patient for case in read_datalist(folder).cases) == sorted(dealt[name])
        assert all(case.image.is_file() for case in read_datalist(folder).cases)


def test_the_settings_are_the_variants_without_validation_patients():
    settings = Plan(JOB).settings
    variant = load_settings(JOB / "variants" / "hippocampus.json")
    data = variant.data.model_copy(update={"validation_fraction": 0.0})
    assert settings == variant.model_copy(update={"data": data})


def test_a_missed_target_is_reported_and_the_table_is_written(monkeypatch, capsys, tmp_path):
    from scripts.benchmarks.__main__ import app

    scores = {FEDERATED: dice(0.7, 0.7, 0.7, 0.8)}
    scores |= {name: dice(0.8, 0.8, 0.8, 0.8) for name in (PASSES, STEPS)}
    models = [hippocampus.Model(name, 4, means(dices), 1.0) for name, dices in scores.items()]
    monkeypatch.setattr(hippocampus, "measure", lambda plan, place: (models, scores))
    monkeypatch.setattr(hippocampus, "find_data", lambda name: tmp_path)
    file = tmp_path / "scores.json"
    with pytest.raises(SystemExit, match="1"):
        run_app(app, ["hippocampus", "--json", str(file)])
    out, err = capsys.readouterr()
    assert err.startswith("error target-missed: federated less pooled, equal passes: -0.075")
    assert err.count("\n") == 1
    assert "NO" in out
    written = json.loads(file.read_text())
    assert [model["name"] for model in written["models"]] == [FEDERATED, PASSES, STEPS]
    assert [row["met"] for row in written["differences"]].count(False) == 1


def test_without_the_scans_the_error_is_one_line(tmp_path, monkeypatch, capsys):
    from scripts.benchmarks.__main__ import app

    monkeypatch.setenv("CONSORTIUM_REAL_DATA", str(tmp_path))
    with pytest.raises(SystemExit, match="2"):
        run_app(app, ["hippocampus"])
    error = capsys.readouterr().err
    assert error.startswith(f"error no-real-data: no such folder, {tmp_path}/hippocampus, ")
    assert error.count("\n") == 1


@pytest.mark.flare  # starts no FLARE, but takes too long for the quick lane
def test_a_quick_run_trains_and_scores_all_three_models_on_generated_scans(tmp_path, monkeypatch):
    from scripts.benchmarks.__main__ import app

    file = tmp_path / "scores.json"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="0"):
        run_app(app, ["hippocampus", "--quick", "--json", str(file)])
    written = json.loads(file.read_text())
    assert [model["name"] for model in written["models"]] == [FEDERATED, PASSES, STEPS]
    for model in written["models"]:
        assert model["patients"] == 3
        assert all(0 <= value <= 1 for value in model["dice"].values())
    assert {(row["target"], row["met"]) for row in written["differences"]} == {(None, None)}
