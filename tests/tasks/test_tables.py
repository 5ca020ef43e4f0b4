"""Tables of patients: read within limits, and written so that a spreadsheet computes nothing."""

import csv
import io
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consortium.core.errors import UsageError
from consortium.models.bundle import write_bundle
from consortium.models.networks import build_network
from consortium.tasks.tables import read_table, table_text, write_table

FORMULAS = [
    "=1+1",
    '=HYPERLINK("https://evil.example","x")',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    " =1+1",
    "\uff1d1+1",
]


def read(text):
    return list(csv.reader(io.StringIO(text)))


@pytest.mark.parametrize("formula", FORMULAS)
def test_no_cell_is_a_formula(tmp_path, formula):
    write_table(tmp_path / "predicted.csv", ["patient", formula], [(formula, "0.5")])
    with (tmp_path / "predicted.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["patient", f"'{formula}"], [f"'{formula}", "0.5"]]


@pytest.mark.parametrize(
    "name", ["P1", "a=b", "", "Müller", "-0.5", "+3", "-1e-07", "12", "O'Neil"]
)
def test_names_and_numbers_stay_as_they_are(name):
    assert read(table_text(["patient"], [(name, "x")])) == [["patient"], [name, "x"]]


@pytest.mark.parametrize("mark", [";", "\t"])
def test_a_spreadsheet_that_splits_elsewhere_finds_no_further_cells(mark):
    text = table_text(["patient"], [(f"P1{mark}=1+1",)])
    assert list(csv.reader(io.StringIO(text), delimiter=mark)) == [["patient"], [f"P1{mark}=1+1"]]


@given(st.text())
def test_no_text_begins_a_formula(cell):
    [written] = next(csv.reader(io.StringIO(table_text([cell], []), newline="")), [""])
    assert written in (cell, f"'{cell}")
    assert (
        re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", written, re.I)
        or written[:1] not in "=+-@"
        or (written == "")
    )


def test_predictions_of_a_patient_with_a_formula_for_a_name_compute_nothing(
    consortium, clinics, tmp_path, light
):
    job = light()
    write_bundle(tmp_path / "model", job, build_network(job).state_dict(), trained={})
    with (clinics / "north" / "patients.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    rows[1][rows[0].index("patient")] = "=1+1"
    with (tmp_path / "new.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    out = tmp_path / "predicted.csv"
    code, _, errors = consortium("predict", tmp_path / "model", tmp_path / "new.csv", "-o", out)
    assert (code, errors) == (0, "")
    with out.open(newline="") as file:
        names = [row["patient"] for row in csv.DictReader(file)]
    assert "'=1+1" in names
    assert "=1+1" not in names


def test_a_sparse_table_is_refused_before_it_is_read(tmp_path):
    (tmp_path / "patients.csv").touch()
    os.truncate(tmp_path / "patients.csv", 1 << 40)
    with pytest.raises(UsageError, match="bad-table"):
        read_table(tmp_path, "patients.csv")
