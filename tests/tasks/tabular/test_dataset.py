import csv

import pytest

from consortium.core.errors import UsageError
from consortium.tasks.folders import check_folder, count_cases
from consortium.tasks.registry import parse_settings
from consortium.tasks.tables import write_table
from consortium.tasks.tabular.dataset import encode, read_patients, split_table

SETTINGS = parse_settings(
    {
        "task": "tabular",
        "data": {
            "numbers": {"age": [0, 100]},
            "categories": {"pain": ["none", "some", "much"]},
            "outcome": {"column": "ill", "classes": {"well": ["0"], "ill": ["1", "2"]}},
        },
    }
)
HEADER = ["patient", "age", "pain", "ill"]
ROWS = [
    [f"P{number}", str(40 + number), ("none", "some", "much")[number % 3], str(number % 3)]
    for number in range(12)
]


@pytest.fixture
def write(tmp_path):
    def table(rows=ROWS, header=HEADER):
        write_table(tmp_path / "patients.csv", header, rows)
        return tmp_path

    return table


def changed(row, column, value):
    rows = [list(row) for row in ROWS]
    rows[row][HEADER.index(column)] = value
    return rows


def test_a_sound_table_becomes_numbers_from_0_to_1(write):
    folder = write()
    assert check_folder(folder, SETTINGS) == []
    assert count_cases(folder) == count_cases(folder, SETTINGS) == (12, 12)
    patients = encode(read_patients(folder), SETTINGS.data)
    index = patients.names.index("P2")
    assert SETTINGS.data.inputs == ("age", "pain some", "pain much")
    assert patients.inputs[index].tolist() == pytest.approx([0.42, 0, 1])
    assert patients.outcomes[index] == 1


def test_one_written_as_one_point_nought_is_one(write):
    raw = {"categories": {"sex": ["0", "1"]}, "numbers": {"age": [0, 100]}}
    raw["outcome"] = {"column": "ill", "classes": {"well": ["0"], "ill": ["1", "2"]}}
    settings = parse_settings({"task": "tabular", "data": raw})
    header = ["patient", "age", "sex", "ill"]
    plain = [[name, age, str(int(age) % 2), ill] for name, age, _, ill in ROWS]
    floats = [[name, age, f"{sex}.0", f"{ill}.0"] for name, age, sex, ill in plain]
    encoded = []
    for rows in (plain, floats):
        folder = write(rows, header)
        assert check_folder(folder, settings) == []
        encoded.append(encode(read_patients(folder), settings.data))
    assert encoded[0].inputs.tolist() == encoded[1].inputs.tolist()
    assert encoded[0].outcomes.tolist() == encoded[1].outcomes.tolist()
    assert sorted(encoded[1].outcomes.tolist()) == [0] * 4 + [1] * 8
    [finding] = check_folder(write([["P", "1", "0.5", "0"], *plain], header), settings)
    assert (finding.code, finding.detail) == ("unknown-value", "sex is none of 0, 1 in line 2")


def test_a_patient_stays_on_its_side_whoever_else_comes(write):
    training, validation = split_table(read_patients(write()), SETTINGS.data)
    assert not {*training.names} & {*validation.names}
    assert len(training) + len(validation) == 12
    fewer = split_table(read_patients(write(ROWS[:9])), SETTINGS.data)[1]
    assert {*fewer.names} == {*validation.names} & {row[0] for row in ROWS[:9]}


def test_the_table_itself_may_set_the_split(write):
    rows = [[*row, "validation" if row[0] in ("P1", "P3") else "training"] for row in ROWS]
    folder = write(rows, [*HEADER, "split"])
    assert check_folder(folder, SETTINGS) == []
    assert split_table(read_patients(folder), SETTINGS.data)[1].names == ("P1", "P3")


@pytest.mark.parametrize("missing", ["", "?", " ? "])
def test_patients_that_lack_a_value_are_left_out_and_counted(write, missing):
    folder = write(changed(4, "age", missing))
    [finding] = check_folder(folder, SETTINGS)
    assert (finding.severity, finding.code) == ("warning", "missing-value")
    assert finding.detail == "1 of 12 patients lack a value and are left out"
    assert "P4" not in encode(read_patients(folder), SETTINGS.data).names


@pytest.mark.parametrize(
    ("rows", "code", "detail"),
    [
        (changed(3, "age", "sixty"), "not-a-number", "age in line 5 is not a number"),
        (changed(3, "age", "nan"), "out-of-range", "age is not within 0 to 100 in line 5"),
        (changed(3, "age", "480"), "out-of-range", "age is not within 0 to 100 in line 5"),
        (changed(3, "pain", "dull"), "unknown-value", "pain is none of none, some, much in line 5"),
        (changed(3, "ill", "9"), "unknown-label", "ill is none of 0, 1, 2 in line 5"),
        (
            changed(3, "patient", "P2"),
            "duplicate-patient",
            "1 patient has several rows, P2 among them",
        ),
        ([[*row[:3], "0"] for row in ROWS], "one-class", "all 12 patients are of one class"),
        ([ROWS[0]], "empty-validation", "no patient is left for validation"),
    ],
)
def test_bad_input_is_one_finding(write, rows, code, detail):
    errors = [f for f in check_folder(write(rows), SETTINGS) if f.severity == "error"]
    assert [(error.code, error.detail) for error in errors][-1] == (code, detail)


@pytest.mark.parametrize(
    ("sides", "code"),
    [
        ("tttttttttttt", "empty-validation"),
        ("vvvvvvvvvvvv", "nothing-to-train"),
        (None, "bad-split"),
    ],
)
def test_a_split_that_leaves_a_side_empty_is_refused(write, sides, code):
    words = {"t": "training", "v": "validation"}
    values = [words[side] for side in sides] if sides else ["both"] * 12
    rows = [[*row, side] for row, side in zip(ROWS, values, strict=True)]
    findings = check_folder(write(rows, [*HEADER, "split"]), SETTINGS)
    assert code in {finding.code for finding in findings}


def test_a_missing_column_is_named(write):
    [finding] = check_folder(write([row[:3] for row in ROWS], HEADER[:3]), SETTINGS)
    assert (finding.code, finding.detail) == ("missing-column", "no column ill")


def test_one_class_in_the_training_part_alone_is_a_warning(write):
    rows = [[*row[:3], "1", "training"] for row in ROWS[:10]]
    rows += [[*row[:3], "0", "validation"] for row in ROWS[10:]]
    [finding] = check_folder(write(rows, [*HEADER, "split"]), SETTINGS)
    assert (finding.severity, finding.code) == ("warning", "one-class-training")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "bad-table"),
        (b"patient,age\n", "empty-hospital"),
        (b"patient,age,age\nP1,1,2\n", "bad-table"),
        (b"patient,age\nP1\n", "bad-table"),
        (b'patient,age\nP1,"1\n', "bad-table"),
        (b"patient,age\nP\xff,1\n", "bad-table"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, content, code):
    (tmp_path / "patients.csv").write_bytes(content)
    with pytest.raises(UsageError) as refusal:
        check_folder(tmp_path, SETTINGS)
    assert refusal.value.code == code
    assert "\n" not in str(refusal.value)


def test_a_spreadsheets_mark_and_line_ends_do_no_harm(write):
    path = write() / "patients.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n  \r\n")
    assert check_folder(path.parent, SETTINGS) == []
    assert len(read_patients(path).rows) == 12


def test_lines_are_counted_as_an_editor_does(write):
    path = write(changed(4, "age", "old")) / "patients.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "", "", *lines[1:]]))
    [finding] = check_folder(path.parent, SETTINGS)
    assert "line 8 " in finding.detail


@pytest.mark.parametrize("separator", [";", "\t"])
def test_another_separator_than_commas_is_named(write, separator):
    path = write() / "patients.csv"
    path.write_text(path.read_text().replace(",", separator))
    with pytest.raises(UsageError, match="bad-table: its columns are not separated"):
        read_patients(path)


def test_a_table_is_written_whole(tmp_path):
    write_table(tmp_path / "t.csv", ["patient"], [["a,b"], ["c"]])
    with (tmp_path / "t.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["patient"], ["a,b"], ["c"]]
