import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consortium.core.errors import UsageError
from consortium.tasks.folders import hospital_folders
from consortium.tasks.segmentation.datalist import (
    Case,
    Datalist,
    patient_of,
    read_datalist,
    split_cases,
)

PATIENTS = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=30, unique=True)


def datalist_of(tmp_path, patients, validation=()):
    cases = [Case(p, tmp_path / f"{n}.nii.gz", tmp_path / "m") for n, p in enumerate(patients)]
    return Datalist(tmp_path, ("FLAIR",), {0: "b"}, tuple(cases), frozenset(validation))


def sides(split):
    return {c.patient for c in split.training}, {c.patient for c in split.validation}


@given(PATIENTS, st.floats(0.05, 0.95))
def test_every_patient_is_on_exactly_one_side_and_no_side_is_empty(tmp_path_factory, names, share):
    training, validation = sides(
        split_cases(datalist_of(tmp_path_factory.getbasetemp(), names), share)
    )
    assert training | validation == set(names)
    assert not training & validation
    assert training
    assert validation or len(names) == 1


@given(PATIENTS)
def test_adding_a_patient_moves_nobody(tmp_path_factory, names):
    folder = tmp_path_factory.getbasetemp()
    everyone = [f"{number}-{name}" for number, name in enumerate(names)] + [
        f"more-{number}" for number in range(40)
    ]
    _, before = sides(split_cases(datalist_of(folder, everyone), 0.3))
    training, after = sides(split_cases(datalist_of(folder, [*everyone, "new"]), 0.3))
    assert after - {"new"} == before
    assert "new" in after | training


def test_two_scans_of_a_patient_stay_on_one_side(tmp_path):
    split = split_cases(datalist_of(tmp_path, ["a", "b", "c", "a", "b"]), 0.5)
    training, validation = sides(split)
    assert not training & validation
    assert len(split.training) + len(split.validation) == 5


def test_the_share_is_about_what_was_asked(tmp_path):
    patients = [f"patient-{number}" for number in range(2000)]
    validation = split_cases(datalist_of(tmp_path, patients), 0.2).validation
    assert 340 < len(validation) < 460


def test_a_declared_split_is_followed(tmp_path):
    datalist = datalist_of(tmp_path, ["a", "b", "c"], validation=["c"])
    assert sides(split_cases(datalist, 0.9)) == ({"a", "b"}, {"c"})


def test_nobody_validates_where_the_job_says_so(tmp_path):
    assert split_cases(datalist_of(tmp_path, ["a", "b"]), 0.0).validation == ()


@pytest.mark.parametrize(
    ("entry", "patient"),
    [
        ({"image": "./imagesTr/x.nii.gz"}, "x"),
        ({"image": "imagesTr/x.y.nii"}, "x.y"),
        ({"image": "./imagesTr/P001"}, "P001"),
        ({"image": "./imagesTr/P001.dcm"}, "P001"),
        ({"image": "i.nii.gz", "patient": 7}, "7"),
    ],
)
def test_the_patient_is_named_by_the_entry_or_the_file(entry, patient):
    assert patient_of(entry) == patient


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ({}, "bad-datalist"),
        (
            {"modality": {"0": "a"}, "labels": {"0": "b"}, "training": [{"image": "x"}]},
            "bad-datalist",
        ),
        ({"modality": [], "labels": {"0": "b"}, "training": []}, "bad-datalist"),
        ({"modality": {"0": "a"}, "labels": {"x": "b"}, "training": []}, "bad-datalist"),
        ({"modality": {"0": "a"}, "labels": {"0": "b"}, "training": []}, "empty-hospital"),
        (
            {
                "modality": {"0": "a"},
                "labels": {"0": "b"},
                "training": [{"image": ["x", "y"], "label": "m"}],
            },
            "bad-datalist",
        ),
        (
            {
                "modality": {"0": "a"},
                "labels": {"0": "b"},
                "training": [{"image": [], "label": "m", "patient": "p"}],
            },
            "bad-datalist",
        ),
    ],
)
def test_a_list_that_is_none_is_refused_with_its_path(tmp_path, content, code):
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(UsageError) as refusal:
        read_datalist(tmp_path)
    assert refusal.value.code == code
    assert str(tmp_path / "dataset.json") in str(refusal.value)


def test_an_image_may_be_a_path_for_each_channel(tmp_path):
    content = {
        "modality": {"0": "T1", "1": "FLAIR"},
        "labels": {"0": "background", "3": "Tumour"},
        "training": [{"patient": "p", "image": ["./p/t1", "./p/flair"], "label": "./p.dcm"}],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    [case] = read_datalist(tmp_path).cases
    assert case.image == case.images == (tmp_path / "p/t1", tmp_path / "p/flair")
    assert case.values == {"tumour": 3}


def test_hospitals_are_the_folders_by_name(tmp_path):
    for name in ("west", "east", ".hidden"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes.txt").touch()
    assert list(hospital_folders(tmp_path)) == ["east", "west"]


def test_a_folder_without_hospitals_is_refused(tmp_path):
    with pytest.raises(UsageError, match="error no-hospitals"):
        hospital_folders(tmp_path)
    with pytest.raises(UsageError, match="error missing-folder"):
        hospital_folders(tmp_path / "missing")
