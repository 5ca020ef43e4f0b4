"""A further task is one folder (`regression_task`) and one line of the registry."""

import json

import pytest
from typer.testing import CliRunner

from consortium.cli import generate
from consortium.core.errors import UsageError
from consortium.core.files import write_json
from consortium.report.__main__ import render_run
from consortium.report.page import render_report
from consortium.runs.centralised import add_centralised
from consortium.runs.in_process import InProcessRun
from consortium.study.job_folder import SETTINGS
from consortium.tasks.registry import TASKS, parse_settings, synthetic_of
from consortium.tasks.synthetic import Request

NAMES = ("east", "west")


@pytest.fixture(autouse=True)
def further(monkeypatch):
    monkeypatch.setitem(TASKS, "regression", "tests.tasks.regression_task")


@pytest.fixture
def settings():
    training = {"learning_rate": 0.1, "batch": 8, "local_steps": 40}
    return parse_settings(
        {"task": "regression", "rounds": 3, "baseline": True, "training": training}
    )


@pytest.fixture
def wards(tmp_path):
    synthetic_of("regression").generate(tmp_path / "wards", Request(like="ward", seed=0))
    return tmp_path / "wards"


@pytest.fixture
def run(wards, tmp_path, settings):
    """A run of two hospitals in this process; its folder."""
    job = tmp_path / "stays"
    write_json(job / "meta.json", {"name": "stays", "deploy_map": {"app": ["@ALL"]}})
    write_json(job / SETTINGS, settings.model_dump(mode="json", by_alias=True))
    # The page is made here, for a process of its own would not know the task.
    started = InProcessRun(
        job=job, data=wards, workspace=tmp_path / "run", assignments=["baseline=true"], render=False
    )
    assert started.run()["complete"]
    render_run(tmp_path / "run")
    return tmp_path / "run"


def test_its_settings_are_refused_as_those_of_the_others(settings):
    assert settings.data.tolerance == 2.0
    with pytest.raises(UsageError, match=r"there is no setting data\.tolerances"):
        parse_settings({"task": "regression", "data": {"tolerances": 1}})


def test_check_data_counts_and_reports(consortium, wards, tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps({"task": "regression"}))
    job = ("--job", tmp_path / "settings.json")
    for more in ((), job):
        code, out, _ = consortium("check-data", wards / "east", *more)
        assert (code, out) == (0, "42 cases, 42 patients: 0 errors, 0 warnings\n")
    table = wards / "west" / "stays.csv"
    table.write_text(table.read_text().replace("marker", "mark"))
    code, out, _ = consortium("check-data", wards / "west", *job)
    assert code == 1
    assert "no column marker" in out


def test_a_run_learns_and_its_page_has_the_figures_of_the_task(run):
    result = json.loads((run / "result.json").read_text())
    for row in result["hospitals"]:
        for model in ("local", "federated"):
            figures = row[model]["figures"]
            assert list(figures) == ["within tolerance", "mean error"]
            assert 0 <= figures["within tolerance"] <= 1
    assert result["hospitals"][0]["federated"]["figures"]["mean error"] < 2
    page = (run / "report.html").read_text()
    for words in (
        "a line that predicts days from age and marker",
        "reaches a share within tolerance of",
        "Share within tolerance of the federated model, round by round",
        "squared error",
        "mean error",
    ):
        assert words in page
    assert "Dice" not in page
    assert "AUROC" not in page


def test_an_error_beyond_one_day_is_on_the_axis(run):
    result = json.loads((run / "result.json").read_text())
    for row in result["hospitals"]:
        row["federated"]["figures"]["mean error"] = 4.0
        row["federated"]["interval"]["mean error"] = [3.0, 5.0]
    page = render_report(result, [], final=result["final"])
    assert "drawn from 0 to 5" in page


def test_the_centralised_model_is_trained_and_scored(run, wards):
    folders = {name: wards / name for name in NAMES}
    result = add_centralised(run, folders, smallest_group=5)
    assert all(row["centralised"]["figures"]["mean error"] >= 0 for row in result["hospitals"])


def test_predict_and_evaluate_use_the_model(consortium, run, wards, tmp_path):
    output = tmp_path / "days.csv"
    code, out, err = consortium(
        "predict", run / "model", wards / "east" / "stays.csv", "-o", output
    )
    assert (code, out, err) == (0, f"wrote {output}: 42 patients\n", "")
    assert output.read_text().startswith("patient,predicted days\neast-0,")
    scores = tmp_path / "scores.json"
    code, out, err = consortium("evaluate", run / "model", "--data", wards, "--json", scores)
    assert (code, err) == (0, "")
    for words in ("east", "west", "all", "mean error", "72"):
        assert words in out
    assert json.loads(scores.read_text())["all"]["patients"] == 72


def test_a_model_refuses_inputs_of_another_task(consortium, run, tmp_path):
    code, _, err = consortium("predict", run / "model", "scan.nii.gz", "-o", tmp_path / "o.csv")
    assert code == 3
    assert err.startswith("error wrong-task: the model is of the task regression")
    assert "or a table of stays" in err


def test_scripts_generate_knows_it(tmp_path):
    arguments = [str(tmp_path / "out"), "--like", "ward"]
    assert CliRunner().invoke(generate.app, arguments).output.count("patients") == 2


def test_a_task_may_generate_no_patients(monkeypatch, tmp_path):
    monkeypatch.setitem(TASKS, "bare", "tests.tasks")
    assert synthetic_of("bare") is None
    refused = CliRunner().invoke(generate.app, [str(tmp_path), "--like", "x"]).exception
    assert refused.code == "unknown-protocol"
    assert str(refused).endswith("or heart or ward")
