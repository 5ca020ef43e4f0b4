import pytest

from consortium.report.confounding import describe_confounding, describe_verdict
from consortium.report.page import render_report

CLASSES = {"COVID-19": ["covid"], "normal": ["normal"]}


def score(auroc, interval=None):
    return {
        "patients": 30,
        "support": {"COVID-19": 15, "normal": 15},
        "figures": {"accuracy": 0.8, "AUROC, COVID-19": auroc, "AUROC, normal": auroc},
        "interval": {"AUROC, COVID-19": interval} if interval else None,
        "withheld": None,
    }


@pytest.fixture
def probed_run(run):
    """`render_report`'s arguments for a run with the confounding probe, of three hospitals."""
    result = run["result"]
    withheld = {"withheld": "fewer than 5 patients", "figures": None, "patients": None}
    east, north, west = result["hospitals"]
    east |= {"local": None, "federated": score(0.91, [0.8, 1.0]), "centralised": None}
    north |= {"local": None, "federated": withheld, "centralised": None}
    west |= {"local": None, "federated": score(None), "centralised": None}
    settings = {**result["settings"], "task": "classification"}
    settings["data"] = {"classes": CLASSES}
    settings["network"] = {"name": "small", "normalisation": "batch"}
    confounding = {
        "verdict": "confounded",
        "reason": "scores lean <towards> the hospital's frequent labels",
        "mix": 0.7,
        "site_association": None,
        "features": {"auc": 0.93, "p": 0.0004, "statistic": 40.0, "freedom": 9},
        "acquisition": None,
        "reported": ["east"],
        "without": {"east": score(0.6), "north": None},
    }
    return {**run, "result": {**result, "settings": settings, "confounding": confounding}}


def test_a_page_shows_what_the_model_learned(probed_run):
    description = describe_confounding(probed_run["result"])
    rows = {name: (within, without) for name, within, without in description["rows"]}
    assert rows["east"] == (
        [("0.91", [0.8, 1.0]), ("0.91", None)],
        [("0.60", None)] * 2,
    )
    assert rows["north"] == ([("withheld", None)] * 2, [("\u2013", None)] * 2)
    assert rows["west"][0] == [("not estimable", None)] * 2
    assert "an AUC of 0.93 (permutation p < 0.001)" in description["features"]
    for record in probed_run["rounds"]:
        for metrics in record["metrics"].values():
            metrics["validation"] = None
    page = render_report(probed_run["result"], probed_run["rounds"], final=probed_run["final"])
    assert "Disease or hospital?" in page
    assert "Confounded." in page
    assert "Scores lean &lt;towards&gt;" in page
    verdict = describe_verdict(probed_run["result"]["confounding"])
    assert verdict.startswith("confounded: scores lean")


def test_a_run_without_the_probe_shows_nothing_of_it(run):
    assert describe_confounding(run["result"]) is None
    page = render_report(run["result"], run["rounds"], final=run["final"])
    assert "Disease or hospital?" not in page
