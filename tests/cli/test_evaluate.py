import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from tests.conftest import LGG, needs_real_data

from consortium.models.bundle import write_bundle
from consortium.models.networks import build_network
from consortium.settings.base import Settings
from consortium.tasks.registry import parse_settings
from consortium.tasks.segmentation.inference import load_case, predict_case
from consortium.tasks.segmentation.scores import score_case

CASE_WESTERN = LGG / "case_western"


def settings(channels: list[str], size: int = 16) -> Settings:
    return parse_settings(
        {
            "data": {"channels": channels, "labels": {"tumour": [1]}, "size": [size, size]},
            "network": {"features": [4, 8]},
        }
    )


def save_model(folder: Path, channels: list[str]) -> Path:
    network = build_network(settings(channels))
    with torch.no_grad():
        network[1].bias.fill_(0.3)
    write_bundle(folder, settings(channels), network.state_dict(), trained={})
    return folder


@pytest.fixture
def model(tmp_path) -> Path:
    return save_model(tmp_path / "model", ["T1", "FLAIR"])


def make_hospital(folder: Path, patients: int, empty: int = 0, **changes: object) -> Path:
    rng = np.random.default_rng(patients)
    folder.mkdir(parents=True)
    entries = []
    for number in range(patients):
        image, label = f"image{number}.nii.gz", f"label{number}.nii.gz"
        voxels = rng.normal(size=(16, 16, 4, 2)).astype(np.float32)
        mask = np.zeros((16, 16, 4), np.uint8)
        mask[4:12, 4:12, 1:3] = number >= empty
        affine = np.diag([1, 1, 3, 1.0])
        nibabel.save(nibabel.Nifti1Image(voxels, affine), folder / image)
        nibabel.save(nibabel.Nifti1Image(mask, affine), folder / label)
        entries.append({"image": image, "label": label, "patient": f"p{number}"})
    dataset = {
        "modality": {"0": "t1", "1": "flair"},
        "labels": {"0": "background", "1": "tumour"},
        "training": entries[1:],
        "validation": entries[:1],
    }
    (folder / "dataset.json").write_text(json.dumps(dataset | changes))
    return folder


def test_every_labelled_patient_of_every_hospital_is_scored(consortium, model, tmp_path):
    make_hospital(tmp_path / "data/west", 3, empty=1)
    make_hospital(tmp_path / "data/east", 2)
    out = tmp_path / "scores.json"
    code, printed, errors = consortium(
        "evaluate", model, "--data", tmp_path / "data", "--json", out
    )
    assert (code, errors) == (0, "")
    scores = json.loads(out.read_text())
    scored = {(case["hospital"], case["patient"]) for case in scores["cases"]}
    assert scored == {
        ("east", "p0"),
        ("east", "p1"),
        ("west", "p0"),
        ("west", "p1"),
        ("west", "p2"),
    }
    for word in ("east", "west", "all", "tumour", "Dice mean [95 %]", "HD95"):
        assert word in printed
    dice = [case["dice"]["tumour"] for case in scores["cases"]]
    assert scores["mean"]["dice"]["tumour"] == pytest.approx(np.mean(dice))
    assert scores["median"]["dice"]["tumour"] == pytest.approx(np.median(dice))
    low, high = scores["interval"]["dice"]["tumour"]
    assert low <= scores["mean"]["dice"]["tumour"] <= high
    east = [case["dice"]["tumour"] for case in scores["cases"] if case["hospital"] == "east"]
    assert scores["hospitals"]["east"]["mean"]["dice"]["tumour"] == pytest.approx(np.mean(east))
    empty = next(c for c in scores["cases"] if (c["hospital"], c["patient"]) == ("west", "p0"))
    assert empty["volume_ml"]["tumour"]["true"] == 0
    assert empty["volume_ml"]["tumour"]["predicted"] > 0
    assert empty["dice"] == {"tumour": 0.0}
    assert empty["hd95"] == {"tumour": None}
    again = tmp_path / "again.json"
    consortium("evaluate", model, "--data", tmp_path / "data", "--json", again)
    assert again.read_bytes() == out.read_bytes()


def test_one_hospitals_folder_is_scored_on_the_grid_and_spacing_of_its_files(
    consortium, model, tmp_path
):
    folder = make_hospital(tmp_path / "north", 1)
    out = tmp_path / "scores.json"
    code, printed, _ = consortium("evaluate", model, "--data", folder, "--json", out)
    assert code == 0
    assert "north" in printed
    scores = json.loads(out.read_text())
    job = settings(["T1", "FLAIR"])
    network = build_network(job)
    with torch.no_grad():
        network[1].bias.fill_(0.3)
    case = load_case(job, folder / "image0.nii.gz", folder / "label0.nii.gz")
    predicted = predict_case(network, case, job, "cpu")
    expected = score_case(predicted, case.label_original, (1, 1, 3), ["tumour"], distances=True)
    assert scores["cases"] == [{"patient": "p0", "hospital": "north", **expected}]
    assert scores["cases"][0]["volume_ml"]["tumour"]["true"] == pytest.approx(0.384)
    assert scores["interval"]["dice"]["tumour"] is None


def one_line(errors: str, code: str) -> bool:
    return errors.startswith(f"error {code}: ") and errors.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"modality": {"0": "FLAIR", "1": "T1"}}, "wrong-channels"),
        ({"modality": {"0": "T1", "1": "FLAIR", "2": "T2"}}, "wrong-channels"),
        ({"labels": {"0": "background", "1": "tumour", "2": "oedema"}}, "wrong-labels"),
        ({"labels": {"0": "background", "1": "liver"}}, "wrong-labels"),
    ],
)
def test_a_model_of_other_channels_or_labels_is_refused(
    consortium, model, tmp_path, changes, refusal
):
    make_hospital(tmp_path / "data/east", 1)
    make_hospital(tmp_path / "data/west", 1, **changes)
    out = tmp_path / "scores.json"
    code, _, errors = consortium("evaluate", model, "--data", tmp_path / "data", "--json", out)
    assert code == 3
    assert one_line(errors, refusal)
    assert str(tmp_path / "data/west") in errors
    assert not out.exists()


def test_what_cannot_be_read_is_one_line(consortium, model, tmp_path):
    code, _, errors = consortium("evaluate", model, "--data", tmp_path / "absent")
    assert code == 2
    assert one_line(errors, "missing-folder")
    folder = make_hospital(tmp_path / "east", 2)
    (folder / "label1.nii.gz").write_bytes(b"cut")
    code, _, errors = consortium("evaluate", model, "--data", folder)
    assert code == 2
    assert one_line(errors, "unreadable-image")
    assert "label1.nii.gz" in errors


@needs_real_data
def test_a_real_hospital_the_model_never_saw_is_scored(consortium, tmp_path):
    model = save_model(tmp_path / "model", ["pre-contrast", "FLAIR", "post-contrast"])
    dataset = json.loads((CASE_WESTERN / "dataset.json").read_text())
    dataset["training"] = [
        {key: str(CASE_WESTERN / path) for key, path in entry.items()}
        for entry in dataset["training"][:2]
    ]
    (tmp_path / "case_western").mkdir()
    (tmp_path / "case_western/dataset.json").write_text(json.dumps(dataset))
    out = tmp_path / "scores.json"
    folder = tmp_path / "case_western"
    code, _, errors = consortium("evaluate", model, "--data", folder, "--json", out)
    assert (code, errors) == (0, "")
    patients = [case["patient"] for case in json.loads(out.read_text())["cases"]]
    assert patients == [Path(entry["image"]).name[:-7] for entry in dataset["training"]]
