import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.pixels import apply_voi_lut, pixel_array

from consortium.core.errors import UsageError
from consortium.synthetic.xrays import LABELS
from consortium.tasks.classification.synthetic import (
    CLINICS,
    COLUMNS,
    LATERAL,
    XrayClinic,
    draw_patient,
    generate_radiographs,
)

SIDE = 32
FEW = [
    replace(clinic, patients=9, held_out=6, second_share=0.5, lateral_share=0.5)
    for clinic in CLINICS
]


def generate(folder: Path, **changes: object) -> Path:
    generate_radiographs(folder, **{"seed": 3, "side": SIDE, "clinics": FEW, **changes})
    return folder


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory) -> Path:
    return generate(tmp_path_factory.mktemp("xrays") / "hospitals", shortcut=0.5)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "labels.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(radiographs, tmp_path):
    first = contents(radiographs)
    assert contents(generate(tmp_path / "again", shortcut=0.5)) == first
    other = contents(generate(tmp_path / "other", shortcut=0.5, seed=4))
    assert not {name for name, data in other.items() if first.get(name) == data}


def test_every_radiograph_is_listed_once_and_is_there(radiographs):
    for clinic in FEW:
        listed = rows(radiographs / clinic.name)
        assert list(listed[0]) == COLUMNS
        names = [row["file"] for row in listed]
        assert len(set(names)) == len(names)
        assert {path.name for path in (radiographs / clinic.name / "images").iterdir()} == set(
            names
        )
        assert {Path(name).suffix for name in names} == {
            ".dcm" if clinic.file_format == "dicom" else ".png"
        }
        assert {row["label"] for row in listed} <= set(LABELS)


def test_a_patient_is_on_one_side_of_the_split_with_one_label(radiographs):
    for clinic in FEW:
        sides = {
            (row["patient"], row["split"], row["label"]) for row in rows(radiographs / clinic.name)
        }
        assert len(sides) == clinic.patients + clinic.held_out
        count = Counter(side for _, side, _ in sides)
        assert count == {"training": clinic.patients, "validation": clinic.held_out}


def test_the_shortcut_changes_radiographs_and_nothing_of_a_patient(radiographs, tmp_path):
    without = generate(tmp_path / "without", shortcut=0.0)
    for clinic in FEW:
        assert rows(without / clinic.name) == rows(radiographs / clinic.name)
    first, other = contents(radiographs), contents(without)
    drawn = {name for name in first if "/images/" in name}
    assert drawn == {name for name in other if "/images/" in name}
    assert all(first[name] != other[name] for name in drawn)


def test_without_a_shortcut_every_scanner_makes_the_same_radiograph():
    north, harbour = CLINICS[0], replace(CLINICS[0], scanner=CLINICS[1].scanner)
    for shortcut, alike in ((0.0, True), (1.0, False)):
        first, other = (
            draw_patient(clinic, 0, seed=0, shortcut=shortcut, side=SIDE).radiographs[0][1]
            for clinic in (north, harbour)
        )
        assert np.array_equal(first, other) == alike


def test_a_patient_does_not_depend_on_how_many_others_there_are(radiographs, tmp_path):
    fewer = [replace(clinic, patients=4, held_out=1) for clinic in FEW]
    for name, data in contents(generate(tmp_path / "few", shortcut=0.5, clinics=fewer)).items():
        if "/images/" in name:
            assert contents(radiographs)[name] == data


def shown(path: Path) -> np.ndarray:
    """A DICOM X-ray as a viewer shows it, white being 255."""
    dataset = pydicom.dcmread(path)
    assert dataset.PhotometricInterpretation == "MONOCHROME1"
    seen = apply_voi_lut(pixel_array(dataset).astype(float), dataset)
    low, high = apply_voi_lut(np.array([0, 4095.0]), dataset)
    return 255 * (1 - (seen - low) / (high - low))


def test_a_dicom_radiograph_shows_what_was_drawn_and_names_nobody(radiographs):
    harbour = FEW[1]
    listed = {row["file"]: row for row in rows(radiographs / harbour.name)}
    for number in range(harbour.patients + harbour.held_out):
        patient = draw_patient(harbour, number, seed=3, shortcut=0.5, side=SIDE)
        for radiograph, (view, pixels) in enumerate(patient.radiographs, start=1):
            name = f"{patient.name}-{radiograph}.dcm"
            path = radiographs / harbour.name / "images" / name
            np.testing.assert_allclose(shown(path), pixels, atol=1e-6)
            header = pydicom.dcmread(path, stop_before_pixels=True)
            assert (header.ViewPosition, listed[name]["view"]) == (view, "")
            assert header.PatientID == header.PatientName == listed[name]["patient"]
            assert header.PatientIdentityRemoved == "YES"
            assert not header.PatientBirthDate
            assert not header.StudyDate


def test_a_png_radiograph_is_what_was_drawn_grey_in_8_bits(radiographs):
    row = rows(radiographs / "valley")[0]
    with Image.open(radiographs / "valley" / "images" / row["file"]) as radiograph:
        assert (radiograph.mode, radiograph.size) == ("L", (SIDE, SIDE))
        drawn = draw_patient(FEW[2], 0, seed=3, shortcut=0.5, side=SIDE).radiographs[0]
        np.testing.assert_array_equal(np.asarray(radiograph), drawn[1])
    assert drawn[0] == row["view"]


def test_some_patients_have_a_second_radiograph_of_the_same_chest_some_a_lateral_one():
    clinic = replace(CLINICS[0], second_share=1.0, lateral_share=1.0)
    views, radiographs = zip(
        *draw_patient(clinic, 2, seed=0, shortcut=0.0, side=64).radiographs, strict=True
    )
    assert views[2] == LATERAL
    assert LATERAL not in views[:2]
    first, second, _ = (radiograph.astype(float)[8:-8, 8:-8].ravel() for radiograph in radiographs)
    other = draw_patient(clinic, 3, seed=0, shortcut=0.0, side=64).radiographs[0][1]
    same = np.corrcoef(first, second)[0, 1]
    assert not np.array_equal(first, second)
    assert same > np.corrcoef(first, other.astype(float)[8:-8, 8:-8].ravel())[0, 1]


def test_few_patients_in_a_row_have_the_mix_of_the_hospital():
    clinic = XrayClinic(
        name="one", patients=20, held_out=20, mix=(0.5, 0.3, 0.2), scanner=CLINICS[0].scanner
    )
    for numbers in (range(20), range(20, 40)):
        labels = Counter(
            draw_patient(clinic, number, seed=0, shortcut=0.0, side=8).label for number in numbers
        )
        for label, share in zip(LABELS, clinic.mix, strict=True):
            assert abs(labels[label] - 20 * share) <= 1.5


def test_every_class_of_the_shipped_hospitals_has_enough_held_out_patients():
    for clinic in CLINICS:
        held_out = range(clinic.patients, clinic.patients + clinic.held_out)
        labels = Counter(
            draw_patient(clinic, number, seed=0, shortcut=0.0, side=8).label for number in held_out
        )
        assert min(labels[label] for label in LABELS) >= 5


def test_what_cannot_be_made_is_refused_and_nothing_is_written(radiographs, tmp_path):
    for shortcut in (-0.1, 1.1, float("nan")):
        with pytest.raises(UsageError, match="bad-shortcut"):
            generate(tmp_path / "new", shortcut=shortcut)
    assert not (tmp_path / "new").exists()
    before = contents(radiographs)
    with pytest.raises(UsageError, match="not-empty"):
        generate(radiographs)
    assert contents(radiographs) == before
