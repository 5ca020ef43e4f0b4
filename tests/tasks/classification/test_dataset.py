"""Reading and splitting the X-rays of a folder."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.xrays import HEADER, radiograph, rows, write_dicom, write_radiographs

from consortium.core.errors import Refused, UsageError
from consortium.tasks.classification.dataset import (
    Radiograph,
    RadiographList,
    read_radiographs,
    split_radiographs,
)
from consortium.tasks.classification.settings import Radiographs
from consortium.tasks.tables import write_table

CLASSES = {"COVID-19": ["covid"], "other": ["pneumonia"], "normal": ["normal", "none"]}
DATA = Radiographs(classes=CLASSES, validation_fraction=0.3)


def names(radiographs):
    return [radiograph.file for radiograph in radiographs]


def test_radiographs_are_taken_in_the_order_of_the_file(tmp_path):
    folder = write_radiographs(tmp_path)
    labels = read_radiographs(folder, DATA)
    assert (labels.folder, labels.left_out, labels.validation) == (folder, 0, frozenset())
    assert names(labels.radiographs) == [row[0] for row in rows()]
    first = Radiograph(folder / "images/00.png", "00.png", "P00", 0, "")
    assert labels.radiographs[0] == first
    assert [radiograph.label for radiograph in labels.radiographs[:4]] == [0, 1, 2, 0]


def test_several_values_make_up_a_class_and_a_column_is_the_source(tmp_path):
    listed = [[*row[:2], "none", "", "north"] for row in rows(3)]
    folder = write_radiographs(tmp_path, listed, [*HEADER, "scanner"])
    radiographs = read_radiographs(
        folder, DATA.model_copy(update={"source": "scanner"})
    ).radiographs
    assert {(radiograph.label, radiograph.source) for radiograph in radiographs} == {(2, "north")}


def test_other_views_are_left_out_whatever_their_case(tmp_path):
    views = ["PA", " ap  Supine ", "Lateral", "L", "", "?"]
    listed = [[*row[:3], view] for row, view in zip(rows(6), views, strict=True)]
    labels = read_radiographs(write_radiographs(tmp_path, listed), DATA)
    assert names(labels.radiographs) == ["00.png", "01.png", "04.png", "05.png"]
    assert labels.left_out == 2


def test_a_missing_view_is_read_from_the_header(tmp_path):
    listed = [["a.dcm", "A", "covid", ""], ["b.dcm", "B", "covid", ""], ["c.dcm", "C", "covid", ""]]
    listed += [["a.dcm", "A", "covid", "LL"], ["b.dcm", "B", "covid", "PA"]]
    folder = write_radiographs(tmp_path, listed, pictures={})
    for name, view in (("a", "PA"), ("b", "LL"), ("c", "")):
        write_dicom(
            folder / "images" / f"{name}.dcm", radiograph(1).astype("u2"), ViewPosition=view
        )
    labels = read_radiographs(folder, DATA)
    assert names(labels.radiographs) == ["a.dcm", "c.dcm", "b.dcm"]
    assert labels.left_out == 2


def test_without_a_label_or_a_patient_a_radiograph_is_left_out(tmp_path):
    listed = rows(5)
    listed[1][2], listed[2][2], listed[3][1] = "", "?", ""
    labels = read_radiographs(write_radiographs(tmp_path, listed), DATA)
    assert names(labels.radiographs) == ["00.png", "04.png"]
    assert labels.left_out == 3


def test_radiographs_without_labels_need_their_file_alone(tmp_path):
    write_table(tmp_path / "labels.csv", ["file"], [["a.png"], ["b.png"]])
    data = DATA.model_copy(update={"source": "scanner"})
    radiographs = read_radiographs(tmp_path, data, labelled=False).radiographs
    assert [
        (radiograph.patient, radiograph.label, radiograph.source) for radiograph in radiographs
    ] == [
        ("a.png", -1, ""),
        ("b.png", -1, ""),
    ]
    listed = [["a.png", "A", "nonsense"], ["b.png", "", ""]]
    write_table(tmp_path / "labels.csv", ["file", "patient", "label"], listed)
    radiographs = read_radiographs(tmp_path, DATA, labelled=False).radiographs
    assert [(radiograph.patient, radiograph.label) for radiograph in radiographs] == [
        ("A", -1),
        ("b.png", -1),
    ]


@pytest.mark.parametrize(
    ("row", "code", "detail"),
    [
        (["/etc/x.png", "P", "covid", ""], "outside-folder", "in line 14"),
        (["a/../../x.png", "P", "covid", ""], "outside-folder", "in line 14"),
        (["00.png", "P", "Covid", ""], "unknown-label", "in line 14"),
    ],
)
def test_what_no_job_can_take_is_refused_in_one_line(tmp_path, row, code, detail):
    with pytest.raises(Refused) as refusal:
        read_radiographs(write_radiographs(tmp_path, [*rows(), row]), DATA)
    assert refusal.value.code == code
    assert detail in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_missing_column_or_file_is_refused(tmp_path):
    folder = write_radiographs(tmp_path, [row[:2] for row in rows()], HEADER[:2])
    with pytest.raises(Refused, match="no column label"):
        read_radiographs(folder, DATA)
    with pytest.raises(Refused, match="no column label, scanner"):
        read_radiographs(folder, DATA.model_copy(update={"source": "scanner"}))
    (folder / "labels.csv").unlink()
    with pytest.raises(UsageError, match=r"labels\.csv"):
        read_radiographs(folder, DATA)


def listing(tmp_path, patients, validation=()):
    radiographs = [
        Radiograph(tmp_path / str(n), str(n), patient, 0, "") for n, patient in enumerate(patients)
    ]
    return RadiographList(tmp_path, tuple(radiographs), 0, frozenset(validation))


@given(st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=30), st.floats(0.05, 0.95))
def test_a_patient_is_on_one_side_and_a_newcomer_moves_nobody(tmp_path_factory, patients, fraction):
    folder = tmp_path_factory.getbasetemp()
    data = DATA.model_copy(update={"validation_fraction": fraction})
    training, validation = split_radiographs(listing(folder, patients), data)
    sides = [{radiograph.patient for radiograph in side} for side in (training, validation)]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == set(patients)
    assert len(training) + len(validation) == len(patients)
    assert training
    assert validation or len(set(patients)) == 1
    assert (training, validation) == split_radiographs(listing(folder, patients), data)
    for side in (training, validation):
        assert list(side) == sorted(
            side, key=lambda radiograph: (radiograph.patient, radiograph.file)
        )


def test_adding_a_patient_moves_none_of_the_others(tmp_path):
    patients = [f"P{number}" for number in range(60)]
    before, after = (
        {radiograph.patient for radiograph in split_radiographs(listing(tmp_path, whom), DATA)[1]}
        for whom in (patients, [*patients, "new"])
    )
    assert after - {"new"} == before


def test_the_file_itself_may_set_the_split(tmp_path):
    sides = ["validation" if number in (2, 5) else "training" for number in range(12)]
    listed = [[*row, side] for row, side in zip(rows(), sides, strict=True)]
    labels = read_radiographs(write_radiographs(tmp_path, listed, [*HEADER, "split"]), DATA)
    assert labels.validation == {"P02", "P05"}
    assert names(split_radiographs(labels, DATA)[1]) == ["02.png", "05.png"]
