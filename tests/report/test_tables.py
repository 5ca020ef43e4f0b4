"""The page, curves and terminal scores of a run of the tabular task."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.conftest import ROOT

from consortium.cli.outcome import score_text
from consortium.core.json_files import read_json_object
from consortium.report.curves import CurveWriter
from consortium.report.page import render_report
from consortium.tasks.registry import load_settings

SETTINGS = ROOT / "jobs" / "heart_disease" / "app" / "config" / "settings.json"

HEART = load_settings(SETTINGS)


def score(accuracy, area):
    return {
        "patients": 20,
        "support": {"no heart disease": 8, "heart disease": 12},
        "figures": {"accuracy": accuracy, "AUROC": area},
        "interval": {"accuracy": [0.5, 0.9]},
        "withheld": None,
    }


@pytest.fixture
def table_run(run):
    """The usual run, with other scores and settings."""
    north, east = score(0.75, 0.875), score(0.5, None)
    result = run["result"] | {"job": "heart_disease", "settings": read_json_object(SETTINGS)}
    withheld = dict.fromkeys(north) | {"withheld": "fewer than 5 patients of a class"}
    scores = {"north": north, "east": east, "west": withheld}
    result["hospitals"] = [
        row | {"federated": scores[row["name"]], "local": scores[row["name"]]}
        for row in result["hospitals"]
    ]
    rounds = [
        record
        | {
            "metrics": {
                name: metrics | {"validation": scores[name]}
                for name, metrics in record["metrics"].items()
            }
        }
        for record in run["rounds"]
    ]
    final = {
        "metrics": {name: {"validation": score, "loss": None} for name, score in scores.items()}
    }
    return {"result": result, "rounds": rounds, "final": final | {"score": 0.625}}


def test_the_page_speaks_of_accuracy_and_area(table_run):
    page = render_report(table_run["result"], table_run["rounds"], final=table_run["final"])
    for words in (
        "a logistic regression that predicts heart disease from age",
        "reaches an accuracy of 0.625",
        "Accuracy of the federated model, round by round",
        "withheld by the hospital: fewer than 5 patients of a class",
        "not estimable",
        "(cross-entropy)",
        "<h3",
        "AUROC",
    ):
        assert words in page
    assert "Dice" not in page


def test_curves_are_named_by_the_figures(table_run, tmp_path):
    writer = CurveWriter(tmp_path, table_run["rounds"], load_settings(SETTINGS))
    writer.finish(table_run["result"], table_run["final"])
    writer.close()
    events = EventAccumulator(str(tmp_path / "north"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"validation/accuracy", "validation/AUROC"} <= tags
    assert not any("dice" in tag for tag in tags)
    assert [event.value for event in events.Scalars("validation/AUROC")][-1] == 0.875


def test_a_score_for_the_terminal():
    assert score_text(score(0.5, None), HEART) == "accuracy 0.500, AUROC not estimable"
    assert score_text({"withheld": "fewer than 5 patients"}, HEART) == "withheld"
    assert score_text(None, HEART) == "-"
