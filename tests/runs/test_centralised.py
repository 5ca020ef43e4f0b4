import json

from consortium.models.networks import build_network
from consortium.runs.centralised import (
    add_centralised,
    pool_hospitals,
    score_at_hospitals,
    train_centralised,
)
from consortium.tasks.folders import hospital_folders
from consortium.tasks.segmentation.datalist import read_datalist, split_cases


def test_the_pooled_folder_holds_every_patient_on_the_side_its_hospital_puts_it(
    generated, tmp_path, tiny
):
    folders = hospital_folders(generated)
    pool_hospitals(folders, tmp_path / "centralised", tiny())
    pooled = split_cases(read_datalist(tmp_path / "centralised"), 0.2)
    for side in ("training", "validation"):
        expected = {
            f"{name}/{case.patient}"
            for name, folder in folders.items()
            for case in getattr(split_cases(read_datalist(folder), 0.2), side)
        }
        assert {case.patient for case in getattr(pooled, side)} == expected
        assert all(case.image.is_file() for case in getattr(pooled, side))


def test_the_pooled_model_sees_as_many_samples_as_all_hospitals_together(generated, tmp_path, tiny):
    settings = tiny("selection.keep=last")
    model = train_centralised(hospital_folders(generated), settings, tmp_path)
    steps = settings.rounds * settings.training.local_steps
    counts = {int(value) for name, value in model.items() if "num_batches" in name}
    assert counts == {3 * steps}
    few = train_centralised(hospital_folders(generated), settings, tmp_path / "few", steps=1)
    assert {int(value) for name, value in few.items() if "num_batches" in name} == {settings.rounds}


def test_its_scores_stand_beside_the_others_in_result_and_page(generated, tmp_path, tiny):
    settings = tiny()
    folders = hospital_folders(generated)
    names = sorted(folders)
    rows = [
        {"name": name, "cases": {"training": 5, "validation": 1}, "local": None, "federated": None}
        for name in names
    ]
    result = {
        "run": "r",
        "job": "tumor_segmentation",
        "complete": True,
        "reason": "",
        "seed": 0,
        "versions": {},
        "hospitals": rows,
        "rounds": 0,
        "best_round": None,
        "model_sha256": None,
        "settings": settings.model_dump(by_alias=True, mode="json"),
        "final": {"metrics": {}, "score": None},
    }
    (tmp_path / "result.json").write_text(json.dumps(result))
    (tmp_path / "rounds.jsonl").write_text("")
    updated = add_centralised(tmp_path, folders, smallest_group=1)
    assert json.loads((tmp_path / "result.json").read_text()) == updated
    scores = [row["centralised"]["figures"]["tumour"] for row in updated["hospitals"]]
    assert all(0 <= value <= 1 for value in scores)
    assert "centralised" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "tensorboard" / names[0] / "centralised").is_dir()


def test_a_pooled_score_over_few_patients_is_withheld(generated, tmp_path, tiny):
    settings = tiny()
    model = build_network(settings).state_dict()
    folders = hospital_folders(generated)
    scores = score_at_hospitals(model, folders, settings, tmp_path, smallest_group=100)
    assert [score.withheld for score in scores.values()] == ["fewer than 100 patients"] * 3
