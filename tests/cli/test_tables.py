"""The commands for patients in tables."""

import csv
import json

import pytest
from tests.conftest import ROOT
from typer.testing import CliRunner

from consortium.cli.generate import app
from consortium.models.bundle import write_bundle
from consortium.models.networks import build_network
from consortium.tasks.registry import load_settings
from consortium.tasks.tabular.synthetic import CLINICS, generate_tables

SETTINGS = load_settings(ROOT / "jobs/heart_disease/app/config/settings.json")


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables") / "hospitals"
    generate_tables(folder, seed=0)
    return folder


@pytest.fixture
def model(tmp_path):
    write_bundle(tmp_path / "model", SETTINGS, build_network(SETTINGS).state_dict(), trained={})
    return tmp_path / "model"


def test_generated_tables_are_fit_for_the_job_and_the_same_again(consortium, tables, tmp_path):
    for clinic in CLINICS:
        code, out, err = consortium("check-data", tables / clinic.name, "--job", "heart_disease")
        assert (code, err) == (0, ""), out
        assert f"{clinic.patients + clinic.held_out} patients: 0 errors" in out
    result = CliRunner().invoke(app, [str(tmp_path / "again"), "--like", "heart"])
    assert result.exit_code == 0, result.output
    for clinic in CLINICS:
        file = f"{clinic.name}/patients.csv"
        first, second = tables / file, tmp_path / "again" / file
        assert first.read_bytes() == second.read_bytes()


def test_without_a_job_the_table_is_checked_by_itself(consortium, tables):
    assert consortium("check-data", tables / "north")[:2] == (
        0,
        "200 cases, 200 patients: 0 errors, 0 warnings\n",
    )


def test_evaluate_shows_accuracy_and_auroc_with_the_number_of_each_class(
    consortium, tables, model, tmp_path
):
    code, out, err = consortium(
        "evaluate", model, "--data", tables, "--json", tmp_path / "scores.json"
    )
    assert (code, err) == (0, "")
    for word in ("accuracy [95 %]", "AUROC [95 %]", "no heart disease", "hillside", "all"):
        assert word in out
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["patients"] == len(scores["cases"])
    assert sum(row["patients"] for row in scores["hospitals"].values()) == scores["patients"]


def test_predict_writes_a_probability_for_each_patient_with_no_outcome_known(
    consortium, tables, model, tmp_path
):
    with (tables / "north" / "patients.csv").open(newline="") as file:
        rows = [row[:-2] for row in csv.reader(file)]  # without num and split
    rows[1][1] = ""
    table, output = tmp_path / "new.csv", tmp_path / "predicted.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    code, out, err = consortium("predict", model, table, "-o", output)
    assert (code, err) == (0, "")
    assert out == f"wrote {output}: 199 patients; 1 more lacks a value\n"
    with output.open(newline="") as file:
        predicted = list(csv.DictReader(file))
    assert len(predicted) == 199
    for row in predicted:
        probability = float(row["probability of heart disease"])
        assert row["predicted"] == ("heart disease" if probability > 0.5 else "no heart disease")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nothing.csv", "-o", "out.csv"], "missing-file"),
        (["new.csv", "-o", "out.nii.gz"], "bad-output"),
        (["new.csv", "-o", "new.csv"], "same-file"),
        (["new.csv", "-o", "out.csv"], "missing-column"),
        (["new.csv", "new.csv", "-o", "out.csv"], "usage"),
    ],
)
def test_bad_input_is_one_line(consortium, model, tmp_path, monkeypatch, arguments, code):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new.csv").write_text("patient,age\nP1,60\n")
    exit_code, out, err = consortium("predict", model, *arguments)
    assert exit_code in (2, 3)
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"error {code}: ")
    assert (tmp_path / "new.csv").read_text() == "patient,age\nP1,60\n"
