"""The commands for X-ray images."""

import csv
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import ROOT
from typer.testing import CliRunner

from consortium.cli.generate import app
from consortium.core.json_files import read_json_object
from consortium.models.bundle import write_bundle
from consortium.models.networks import build_network
from consortium.settings.base import override
from consortium.tasks.classification.synthetic import CLINICS, draw_patient, generate_radiographs
from consortium.tasks.registry import TASKS, parse_settings, synthetic_of

SIDE = 48
FEW = [replace(one, patients=8, held_out=4, second_share=0.5, lateral_share=0.5) for one in CLINICS]
RAW = read_json_object(ROOT / "jobs/covid_detection/app/config/settings.json")
SETTINGS = parse_settings(override(RAW, ["data.size=32", "network.features=[8,8]"]))
CLASSES = ["COVID-19", "pneumonia", "normal"]


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory) -> Path:
    """X-ray images of four hospitals; shared by the tests, which do not write into it."""
    folder = tmp_path_factory.mktemp("xrays") / "hospitals"
    generate_radiographs(folder, seed=1, side=SIDE, clinics=FEW)
    return folder


@pytest.fixture
def model(tmp_path) -> Path:
    write_bundle(tmp_path / "model", SETTINGS, build_network(SETTINGS).state_dict(), trained={})
    return tmp_path / "model"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def drawn(number: int) -> Sequence[tuple[str, np.ndarray]]:
    """The views and X-ray images of a patient of harbour, whose files are DICOM."""
    return draw_patient(FEW[1], number, seed=1, shortcut=0.0, side=SIDE).radiographs


def write_labels(folder: Path, labels: Sequence[str]) -> Path:
    """Writes a hospital with images of noise, one for each patient."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = ["file,patient,label"]
    for number, label in enumerate(labels):
        pixels = rng.integers(0, 255, (SIDE, SIDE), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        lines.append(f"{number}.png,P{number},{label}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_generate_writes_the_shipped_hospitals(tmp_path):
    arguments = [str(tmp_path / "out"), "--like", "chest", "--seed", "1"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    for clinic in CLINICS:
        assert f"{clinic.name}: {clinic.patients + clinic.held_out} patients" in result.output
        listed = rows(tmp_path / "out" / clinic.name / "labels.csv")
        assert len({row["patient"] for row in listed}) == clinic.patients + clinic.held_out


def test_the_demo_knows_every_task():
    assert all(synthetic_of(task) is not None for task in TASKS)


def test_evaluate_shows_the_figures_of_each_class_at_each_hospital(
    consortium, radiographs, model, tmp_path
):
    code, out, err = consortium(
        "evaluate", model, "--data", radiographs, "--json", tmp_path / "scores.json"
    )
    assert (code, err) == (0, "")
    titles = ("AUROC", "average precision", "sensitivity at specificity 0.9", "calibration error")
    for word in (*titles, "[95 %]", *CLASSES, "north", "all", "accuracy, hillside: "):
        assert word in out
    scores = json.loads((tmp_path / "scores.json").read_text())
    patients = sum(clinic.patients + clinic.held_out for clinic in FEW)
    assert scores["patients"] == patients == sum(scores["support"].values())
    assert sum(row["patients"] for row in scores["hospitals"].values()) == patients
    frontal = 0
    for clinic in FEW:
        numbers = range(clinic.patients + clinic.held_out)
        kept = [draw_patient(clinic, n, seed=1, shortcut=0.0, side=8).radiographs for n in numbers]
        frontal += sum(view != "LL" for of_patient in kept for view, _ in of_patient)
    assert len(scores["cases"]) == frontal
    for case in scores["cases"]:
        assert sum(case["probabilities"].values()) == pytest.approx(1)
        assert list(case["probabilities"]) == CLASSES
        assert case["class"] in CLASSES


def test_evaluate_marks_what_cannot_be_estimated_and_what_is_descriptive(
    consortium, model, tmp_path
):
    hospital = write_labels(tmp_path / "west", ["covid", "pneumonia", "pneumonia"])
    code, out, err = consortium("evaluate", model, "--data", hospital)
    assert (code, err) == (0, "")
    lines = {name: line for line in out.splitlines() for name in CLASSES if f" {name} " in line}
    assert lines["normal"].count("not estimable") == 4
    assert ", descriptive" in lines["COVID-19"]
    assert "all" not in [line.split()[1] for line in lines.values()]


def test_evaluate_names_a_label_that_the_model_does_not_know(consortium, model, tmp_path):
    hospital = write_labels(tmp_path / "west", ["covid", "measles", "normal"])
    code, out, err = consortium("evaluate", model, "--data", hospital)
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert err.startswith("error unknown-label: ")


def test_evaluate_names_a_radiograph_that_cannot_be_read(consortium, model, tmp_path):
    hospital = write_labels(tmp_path / "west", ["covid", "pneumonia", "normal"])
    (hospital / "images" / "1.png").write_bytes(b"no X-ray")
    scores = tmp_path / "scores.json"
    code, out, err = consortium("evaluate", model, "--data", hospital, "--json", scores)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error unreadable-file: ")
    assert "1.png" in err
    assert not scores.exists()


def test_predict_writes_the_probability_of_each_class_for_each_radiograph(
    consortium, radiographs, model, tmp_path
):
    image, folder = (
        radiographs / "valley" / "images" / "valley-001-1.png",
        radiographs / "north" / "images",
    )
    output = tmp_path / "predicted.csv"
    code, out, err = consortium("predict", model, image, folder, "-o", output)
    files = [image, *sorted(folder.iterdir())]
    assert (code, err) == (0, "")
    assert out == f"wrote {output}: {len(files)} X-rays\n"
    predicted = rows(output)
    assert [row["file"] for row in predicted] == [str(file) for file in files]
    for row in predicted:
        probabilities = {name: float(row[f"probability of {name}"]) for name in CLASSES}
        assert sum(probabilities.values()) == pytest.approx(1, abs=2e-4)
        assert probabilities[row["predicted"]] == max(probabilities.values())


def test_a_radiograph_is_the_same_to_the_model_as_dicom_png_or_jpeg(
    consortium, radiographs, model, tmp_path
):
    _, pixels = drawn(0)[0]
    Image.fromarray(pixels).save(tmp_path / "X-ray.png")
    Image.fromarray(pixels).save(tmp_path / "X-ray.jpg", quality=100)
    shutil.copy(radiographs / "harbour/images/harbour-001-1.dcm", tmp_path / "IM0001")
    images = [tmp_path / name for name in ("X-ray.png", "X-ray.jpg", "IM0001")]
    code, _, err = consortium("predict", model, *images, "-o", tmp_path / "out.csv")
    assert (code, err) == (0, "")
    predicted = [
        [float(row[f"probability of {c}"]) for c in CLASSES] for row in rows(tmp_path / "out.csv")
    ]
    assert predicted[2] == predicted[0]
    assert predicted[1] == pytest.approx(predicted[0], abs=0.005)


def test_in_a_folder_dicom_is_recognised_by_content_and_other_files_are_counted(
    consortium, radiographs, model, tmp_path
):
    folder, output = tmp_path / "export", tmp_path / "out.csv"
    folder.mkdir()
    for name in ("1.2.840.113619.2.55.3.100", "1.2.840.113619.2.55.3.101", "IM0001"):
        shutil.copy(radiographs / "harbour/images/harbour-001-1.dcm", folder / name)
    (folder / "README").write_text("exported on a Friday\n")
    (folder / ".hidden").write_text("of the system\n")
    code, out, err = consortium("predict", model, folder, "-o", output)
    assert (code, err) == (0, "")
    assert out == f"{folder}: 1 other file is ignored\nwrote {output}: 3 X-rays\n"


def test_predictions_never_replace_a_hospitals_labels(consortium, radiographs, model, tmp_path):
    shutil.copytree(radiographs / "valley", tmp_path / "valley")
    labels = tmp_path / "valley" / "labels.csv"
    before = labels.read_bytes()
    code, out, err = consortium("predict", model, labels.parent / "images", "-o", labels)
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert err.startswith("error same-file: it would replace a hospital's table, ")
    assert labels.read_bytes() == before


def test_a_radiograph_whose_header_names_another_view_is_left_out_and_counted(
    consortium, radiographs, model, tmp_path
):
    folder = radiographs / "harbour" / "images"
    views = {
        f"harbour-{number + 1:03d}-{radiograph}.dcm": view
        for number in range(FEW[1].patients + FEW[1].held_out)
        for radiograph, (view, _) in enumerate(drawn(number), start=1)
    }
    lateral = sorted(name for name, view in views.items() if view == "LL")
    output = tmp_path / "predicted.csv"
    code, out, err = consortium("predict", model, folder, "-o", output)
    assert (code, err) == (0, "")
    kept = len(views) - len(lateral)
    assert out == f"wrote {output}: {kept} X-rays; {len(lateral)} more are of another view\n"
    assert {Path(row["file"]).name for row in rows(output)} == set(views) - set(lateral)
    output.unlink()
    code, out, err = consortium("predict", model, folder / lateral[0], "-o", output)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error other-view: ")
    assert not output.exists()


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("bad.png", b"no X-ray", "unreadable-file"),
        ("bad.dcm", b"no X-ray", "unreadable-file"),
        ("absent.png", None, "missing-file"),
    ],
)
def test_a_radiograph_that_cannot_be_read_is_one_line_and_what_was_there_stays(
    consortium, radiographs, model, tmp_path, name, content, code
):
    bad, output = tmp_path / name, tmp_path / "predicted.csv"
    if content is not None:
        bad.write_bytes(content)
    output.write_text("of yesterday\n")
    good = radiographs / "valley" / "images"
    exit_code, out, err = consortium("predict", model, good, bad, "-o", output)
    assert (exit_code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error {code}: ")
    assert name in err
    assert output.read_text() == "of yesterday\n"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("image", "output", "code"),
    [
        ("X-ray.png", "out.nii.gz", "bad-output"),
        ("X-ray.png", "absent/out.csv", "missing-folder"),
        ("empty", "out.csv", "no-xrays"),
        ("new.csv", "out.csv", "wrong-task"),
    ],
)
def test_bad_input_is_one_line(consortium, model, tmp_path, monkeypatch, image, output, code):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(drawn(0)[0][1]).save(tmp_path / "X-ray.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no X-ray\n")
    (tmp_path / "new.csv").write_text("patient,age\nP1,60\n")
    exit_code, out, err = consortium("predict", model, image, "-o", output)
    assert exit_code in (2, 3)
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"error {code}: ")
    assert not (tmp_path / output).exists()


def test_a_model_of_scans_takes_no_radiograph(consortium, tiny, tmp_path):
    scans = tiny()
    write_bundle(tmp_path / "scans", scans, build_network(scans).state_dict(), trained={})
    Image.fromarray(drawn(0)[0][1]).save(tmp_path / "X-ray.png")
    mask = tmp_path / "mask.nii.gz"
    code, out, err = consortium("predict", tmp_path / "scans", tmp_path / "X-ray.png", "-o", mask)
    assert code in (2, 3)
    assert (out, err.count("\n")) == ("", 1)
    assert not mask.exists()
