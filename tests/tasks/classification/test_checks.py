"""The checks of a hospital's X-rays."""

import csv
import re

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from tests.conftest import REAL, needs_real_data
from tests.xrays import HEADER, radiograph, rows, write_dicom, write_radiographs

from consortium.core.errors import UsageError
from consortium.imaging.burnt_text import count_letters
from consortium.synthetic.xrays import LABELS, OWN, draw_radiograph
from consortium.tasks.folders import check_folder, count_cases
from consortium.tasks.registry import parse_settings

JOB = {
    "task": "classification",
    "data": {"classes": {"COVID-19": ["covid"], "other": ["pneumonia"], "normal": ["normal"]}},
}
SETTINGS = parse_settings(JOB)


def changed(line, column, value):
    listed = rows()
    listed[line - 2][HEADER.index(column)] = value
    return listed


def only(folder, settings=SETTINGS):
    findings = check_folder(folder, settings)
    assert len(findings) == 1, findings
    assert "\n" not in findings[0].detail
    return findings[0]


def fields(finding):
    return finding.severity, finding.code, finding.file, finding.detail


def test_a_sound_folder(tmp_path):
    folder = write_radiographs(tmp_path)
    done = []
    assert check_folder(folder, SETTINGS, lambda *counts: done.append(counts)) == []
    assert done == [(number, 12) for number in range(1, 13)]
    assert check_folder(folder) == []
    listed = [*rows(), ["00.png", "P00", "covid", "PA"]]
    write_radiographs(folder, listed)
    assert count_cases(folder) == count_cases(folder, SETTINGS) == (13, 12)


@pytest.mark.parametrize(
    ("listed", "code", "detail"),
    [
        (changed(4, "label", "flu"), "unknown-label", "none of covid, pneumonia, normal in line 4"),
        (changed(4, "file", "/x/y.png"), "outside-folder", "/x/y.png in line 4 is not a path"),
        (changed(4, "file", "../y.png"), "outside-folder", "../y.png in line 4 is not a path"),
        (changed(4, "file", ""), "missing-file", "line 4 names no file"),
        (changed(4, "file", "y.png"), "missing-file", "no such file"),
        (changed(4, "file", "./00.png"), "duplicate-file", "listed 2 times, in lines 2, 4"),
    ],
)
def test_a_row_that_is_wrong_is_one_error(tmp_path, listed, code, detail):
    finding = only(write_radiographs(tmp_path, listed))
    assert (finding.severity, finding.code) == ("error", code)
    assert detail in finding.detail


@pytest.mark.parametrize(
    ("listed", "code", "detail"),
    [
        (changed(4, "label", ""), "missing-value", "1 of 12 X-rays lack a label or a patient and"),
        (changed(4, "patient", "?"), "missing-value", "1 of 12 X-rays lack a label or a patient"),
        (changed(4, "view", " "), "unknown-view", "the view of 1 of 12 X-rays is not known"),
    ],
)
def test_what_is_missing_is_counted(tmp_path, listed, code, detail):
    finding = only(write_radiographs(tmp_path, listed))
    assert (finding.severity, finding.code) == ("warning", code)
    assert detail in finding.detail


def test_radiographs_of_other_views_are_counted_and_not_opened(tmp_path):
    listed = rows()
    listed[0][3], listed[1][3], listed[2][3] = "L", "LATERAL", "L"
    folder = write_radiographs(tmp_path, listed)
    (folder / "images/01.png").write_bytes(b"nothing")
    detail = "3 of 12 X-rays are of other views (L, LATERAL) and are left out"
    assert fields(only(folder)) == ("warning", "other-view", "labels.csv", detail)


@pytest.mark.parametrize(("count", "without"), [(3, "label"), (2, "patient, label"), (1, None)])
def test_a_missing_column_is_named(tmp_path, count, without):
    header = ["file", "patient", "view"] if count == 3 else ["file", "view"]
    settings = SETTINGS
    listed = [row[: len(header)] for row in rows()]
    if without is None:
        header, listed, without = list(HEADER), rows(), "scanner"
        settings = parse_settings({**JOB, "data": {**JOB["data"], "source": "scanner"}})
    finding = only(write_radiographs(tmp_path, listed, header), settings)
    assert fields(finding) == ("error", "missing-column", "labels.csv", f"no column {without}")


SIDES = {"t": "training", "v": "validation", "b": "both"}


@pytest.mark.parametrize(
    ("sides", "code", "detail"),
    [
        ("t" * 12, "empty-validation", "no patient is left for validation"),
        ("v" * 12, "nothing-to-train", "no X-ray is left for training"),
        ("tttttttttttb", "bad-split", "split is neither training nor validation in line 13"),
    ],
)
def test_a_split_that_is_wrong_is_an_error(tmp_path, sides, code, detail):
    listed = [[*row, SIDES[side]] for row, side in zip(rows(), sides, strict=True)]
    finding = only(write_radiographs(tmp_path, listed, [*HEADER, "split"]))
    assert fields(finding) == ("error", code, "labels.csv", detail)


def test_a_patient_on_both_sides_is_an_error(tmp_path):
    sides = "tttttttttvvv"
    listed = [[*row, SIDES[side]] for row, side in zip(rows(), sides, strict=True)]
    listed[11][1] = "P00"
    finding = only(write_radiographs(tmp_path, listed, [*HEADER, "split"]))
    detail = "1 patient is on both sides of the split, P00 among them"
    assert fields(finding) == ("error", "split-patient", "labels.csv", detail)
    assert check_folder(tmp_path) == [finding]


def test_a_hospital_of_one_class_is_warned_and_may_take_part(tmp_path):
    listed = [[*row[:2], "covid", "PA"] for row in rows()]
    finding = only(write_radiographs(tmp_path, listed))
    detail = "all 12 X-rays are of one class, COVID-19"
    assert fields(finding) == ("warning", "one-class-xrays", "labels.csv", detail)


def test_one_class_in_the_training_part_alone_is_a_warning(tmp_path):
    sides = ["training" if row[2] == "covid" else "validation" for row in rows()]
    listed = [[*row, side] for row, side in zip(rows(), sides, strict=True)]
    finding = only(write_radiographs(tmp_path, listed, [*HEADER, "split"]))
    assert fields(finding)[1:2] + fields(finding)[3:] == (
        "one-class-training",
        "all 4 training X-rays are of one class",
    )


def test_few_patients_are_a_warning_and_one_cannot_validate(tmp_path):
    few = write_radiographs(tmp_path / "few", rows(4))
    codes = [finding.code for finding in check_folder(few, SETTINGS)]
    assert codes == ["too-few-patients", "one-class-training"]
    listed = [[row[0], "P", *row[2:]] for row in rows()]
    codes = [
        finding.code
        for finding in check_folder(write_radiographs(tmp_path / "one", listed), SETTINGS)
    ]
    assert codes == ["empty-validation", "too-few-patients"]


def test_all_left_out_is_nothing_to_train(tmp_path):
    listed = [[*row[:3], "L"] for row in rows()]
    codes = {
        finding.code for finding in check_folder(write_radiographs(tmp_path, listed), SETTINGS)
    }
    assert {"nothing-to-train", "other-view"} <= codes


def test_the_same_pixels_are_an_error_for_two_patients_and_a_warning_for_one(tmp_path):
    folder = write_radiographs(tmp_path, changed(5, "patient", "P00"))
    Image.fromarray(radiograph(0)).convert("RGB").save(folder / "images/03.png")
    finding = only(folder)
    detail = "the same pixels as images/00.png, of the same patient"
    assert fields(finding) == ("warning", "repeated-image", "images/03.png", detail)
    finding = only(write_radiographs(folder, pictures={}))
    detail = "the same pixels as images/00.png, of another patient"
    assert fields(finding) == ("error", "duplicate-image", "images/03.png", detail)


def test_pictures_without_a_radiograph_on_them_are_warned_of(tmp_path):
    folder = write_radiographs(tmp_path)
    Image.fromarray(np.full((96, 96), 7, np.uint8)).save(folder / "images/03.png")
    Image.fromarray(np.full((96, 96), 7, np.uint8)).save(folder / "images/05.png")
    Image.fromarray(radiograph(4, 63)).save(folder / "images/04.png")
    findings = [fields(finding) for finding in check_folder(folder, SETTINGS)]
    assert findings == [
        ("warning", "constant-image", "images/03.png", "has one value only"),
        ("warning", "tiny-image", "images/04.png", "63 x 63 pixels"),
        ("warning", "constant-image", "images/05.png", "has one value only"),
    ]


def test_every_damaged_file_is_reported_and_the_others_are_checked(tmp_path):
    folder = write_radiographs(tmp_path, changed(9, "file", "a.dcm"))
    (folder / "images/02.png").write_bytes((folder / "images/02.png").read_bytes()[:900])
    colours = np.stack([radiograph(3), radiograph(3) // 2, radiograph(3)], -1)
    Image.fromarray(colours).save(folder / "images/03.png")
    Image.fromarray(radiograph(4).astype(np.uint16) * 16).save(folder / "images/04.png")
    write_dicom(
        folder / "images/a.dcm", radiograph(7).astype(np.uint16), PatientBirthDate="19000101"
    )
    findings = [(finding.code, finding.file) for finding in check_folder(folder, SETTINGS)]
    assert findings == [
        ("unreadable-file", "images/02.png"),
        ("colour-image", "images/03.png"),
        ("sixteen-bit", "images/04.png"),
        ("identifying-header", "images/a.dcm"),
    ]


def test_negatives_among_radiographs_are_found_and_no_others(tmp_path):
    pictures = {f"{number:02}.png": radiograph(number) for number in range(40)}
    for number in (3, 11, 17, 28, 39):
        pictures[f"{number:02}.png"] = 255 - radiograph(number)
    folder = write_radiographs(tmp_path, rows(40), pictures=pictures)
    findings = [(finding.code, finding.file) for finding in check_folder(folder, SETTINGS)]
    assert findings == [("inverted-image", f"images/{n:02}.png") for n in (3, 11, 17, 28, 39)]
    folder = write_radiographs(tmp_path, rows(7), pictures={})
    assert check_folder(folder, SETTINGS) == []  # too few to compare


def with_text(values, text, position, size=14):
    picture = Image.fromarray(values)
    font = ImageFont.load_default(size=size)
    ImageDraw.Draw(picture).text(position, text, fill=255, font=font)
    return np.asarray(picture)


POSITIONS = [(12, 12), (400, 12), (12, 485)]


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("size", [12, 20])
def test_text_near_the_border_is_found_and_a_letter_of_lead_is_none(number, size):
    scanner, label = OWN[number % len(OWN)], LABELS[number % len(LABELS)]
    plain = draw_radiograph(np.random.default_rng(number), label, scanner, 512)
    assert count_letters(plain / np.float32(255)) == 0
    for position in POSITIONS:
        written = with_text(plain, "QUUX ADA", position, size) / np.float32(255)
        assert count_letters(written) >= 4
        assert count_letters(with_text(plain, "L", position, 40) / np.float32(255)) == 0
    middle = with_text(plain, "QUUX ADA", (200, 250), size) / np.float32(255)
    assert count_letters(middle) == 0


def test_text_on_a_radiograph_of_many_pixels_is_found():
    large = np.kron(radiograph(3, 512), np.ones((5, 5), np.uint8))
    assert count_letters(large / np.float32(255)) == 0
    assert count_letters(with_text(large, "QUUX ADA", (60, 60), 70) / np.float32(255)) == 7


def test_text_is_counted_and_never_shown(tmp_path):
    folder = write_radiographs(tmp_path)
    written = with_text(radiograph(3, 512), "QUUX ADA", (12, 12), 20)
    Image.fromarray(written).save(folder / "images/03.png")
    finding = only(folder)
    assert fields(finding)[:3] == ("warning", "burnt-in-text", "images/03.png")
    assert re.fullmatch(r"\d shapes like letters in a line near its border", finding.detail)


def test_without_radiographs_there_is_nothing_to_check(tmp_path):
    with pytest.raises(UsageError, match=r"labels\.csv"):
        check_folder(tmp_path, SETTINGS)
    write_radiographs(tmp_path, [])
    with pytest.raises(UsageError, match="list them"):
        check_folder(tmp_path, SETTINGS)


@needs_real_data
def test_real_radiographs_raise_no_false_alarm(tmp_path):
    source = REAL / "covid_cxr"
    with (source / "labels.csv").open(newline="") as file:
        listed = [row for row in csv.DictReader(file) if row["site"] == "hannover"]
    folder = write_radiographs(
        tmp_path,
        [[row[name] for name in HEADER] for row in listed],
        pictures={},
    )
    (folder / "images").rmdir()
    (folder / "images").symlink_to(source / "images")
    assert [finding.code for finding in check_folder(folder, SETTINGS)] == ["one-class-xrays"]
