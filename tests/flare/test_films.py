"""X-rays in FLARE: the rounds, then what the model learned, and training without each hospital."""

from dataclasses import replace

from tests.conftest import ROOT

from consortium.generator.film_folders import CLINICS, generate_films
from consortium.simulation import Simulation


def test_three_hospitals_with_films_train_one_model_and_say_what_it_learned(tmp_path, consortium):
    clinics = [replace(clinic, patients=24, held_out=20) for clinic in CLINICS[:3]]
    generate_films(tmp_path / "data", seed=0, side=48, shortcut=1.0, clinics=clinics)
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
    assert result["provenance"]["told"] == names
    assert sorted(result["provenance"]["without"]) == names
    for name in names:
        rounds = (tmp_path / "run" / "without" / name / "rounds.jsonl").read_text().splitlines()
        assert len(rounds) == 2
        assert (
            f'"asked": {[other for other in names if other != name]}'.replace("'", '"')
            in (rounds[0])
        )
    code, out, err = consortium("evaluate", tmp_path / "run" / "model", "--data", tmp_path / "data")
    assert (code, err) == (0, "")
    assert "COVID-19" in out
