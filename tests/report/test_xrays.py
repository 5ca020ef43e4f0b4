"""A run whose scores have figures of each class."""

import re

import numpy as np
import pytest
from tests.report.conftest import RADIOGRAPHS, radiograph_run

from consortium.cli.outcome import score_text
from consortium.core.json_files import read_json_object
from consortium.protocol.metrics import MetricSpec, descriptive
from consortium.report.comparison import compare
from consortium.report.page import render_report
from consortium.report.reliability import SIDE, draw_reliability
from consortium.tasks.registry import parse_settings

RAW = read_json_object(RADIOGRAPHS)
COVID = parse_settings(RAW)


@pytest.fixture
def radiographs(run):
    return radiograph_run(run)


@pytest.fixture
def page(radiographs):
    return render_report(radiographs["result"], radiographs["rounds"], final=radiographs["final"])


def hospital(radiographs, name):
    return next(row for row in radiographs["result"]["hospitals"] if row["name"] == name)


def test_the_page_shows_accuracy_and_areas_and_folds_the_rest(page):
    open_part, folded = page.split("<details><summary>More figures</summary>")
    folded = folded.split("</details>")[0]
    titles = re.compile(r"<h3[^>]*>(.*?)</h3>")
    assert titles.findall(open_part) == [
        "accuracy",
        *(f"AUROC, {name}" for name in ("COVID-19", "pneumonia", "normal")),
    ]
    assert len(titles.findall(folded)) == 3 * 3 + 1
    assert folded.count("<h4>") == 3
    assert "at a specificity of at least 90&nbsp;%" in folded
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(set(ids)) == len(ids)
    for words in (
        "classifies frontal chest X-rays into COVID-19, pneumonia and normal",
        "reaches a mean AUROC of",
        "withheld by the hospital: fewer than 5 patients of a class",
        "few or no patients of the class",
    ):
        assert words in open_part


def test_a_figure_of_few_patients_is_called_descriptive_beside_its_value(radiographs, page):
    east = hospital(radiographs, "east")["federated"]
    assert east["support"] == {"COVID-19": 8, "pneumonia": 40, "normal": 52}
    notes = {
        (plot.name, group.name): estimate.note
        for plot in compare(radiographs["result"]["hospitals"], COVID.scored)
        for group in plot.groups
        for estimate in group.estimates
        if estimate.model == "federated" and estimate.value is not None
    }
    few = "descriptive: fewer than 10 patients"
    assert notes["AUROC, COVID-19", "east"] == notes["sensitivity, COVID-19", "east"] == few
    assert notes["AUROC, pneumonia", "east"] == notes["accuracy", "east"] == ""
    value = east["figures"]["AUROC, COVID-19"]
    assert f'<td class="n">{value:.3f} <span class="worth">{few}</span></td>' in page


@pytest.mark.parametrize(
    ("support", "expected"),
    [
        ({"ill": 10, "well": 10}, False),
        ({"ill": 9, "well": 50}, True),
        ({"ill": 50, "well": 9}, True),
        ({"ill": 50, "well": 5, "other": 5}, False),
        ({"well": 50, "other": 50}, True),
    ],
)
def test_a_class_and_the_others_are_counted(support, expected):
    of_class = MetricSpec(name="AUROC, ill", figure="AUROC", of="ill")
    assert descriptive(support, of_class) is expected
    assert not descriptive(support, MetricSpec(name="accuracy", figure="accuracy"))
    structure = MetricSpec(name="lesion, left", figure="Dice", of="lesion, left")
    assert not descriptive(None, structure)


def test_a_class_may_have_a_comma_in_its_name():
    data = {**RAW["data"], "classes": {"pneumonia, viral": ["v"], "none": ["n"]}}
    scored = parse_settings({**RAW, "data": data}).scored
    metrics = {metric.name: metric for metric in scored.metrics}
    area = metrics["AUROC, pneumonia, viral"]
    assert (area.figure, area.of, area.headline) == ("AUROC", "pneumonia, viral", True)


def test_a_curve_is_drawn_for_each_hospital_that_sent_one(radiographs, page):
    drawn = draw_reliability(radiographs["result"]["hospitals"])
    assert {name: [curve.hospital for curve in curves] for name, curves in drawn.items()} == {
        "COVID-19": ["east"],
        "pneumonia": ["east", "north"],
        "normal": ["east", "north"],
    }
    bins = hospital(radiographs, "east")["federated"]["reliability"]["COVID-19"]
    curve = drawn["COVID-19"][0]
    x, y, _ = np.transpose(curve.dots)
    assert np.allclose(x / SIDE, [bin[0] for bin in bins], atol=0.001)
    assert np.allclose(1 - y / SIDE, [bin[1] for bin in bins], atol=0.001)
    mean, share, size = bins[0]
    assert f"predicted {mean:.2f}, observed {share:.2f} ({size} patients)" in curve.values
    assert page.count('class="diagonal"') == 5
    assert all(curve.values in page for curves in drawn.values() for curve in curves)


def test_a_larger_group_has_a_larger_dot():
    row = {"name": "east", "federated": {"reliability": {"ill": [[0.1, 0, 40], [0.5, 0.5, 10]]}}}
    first, second = draw_reliability([row])["ill"][0].dots
    assert first[2] == 2 * second[2]


def test_the_end_of_a_run_shows_two_figures_of_many(radiographs):
    east, north = (hospital(radiographs, name)["federated"] for name in ("east", "north"))
    areas = [east["figures"][f"AUROC, {name}"] for name in ("COVID-19", "pneumonia", "normal")]
    accuracy = east["figures"]["accuracy"]
    assert score_text(east, COVID) == f"AUROC {np.mean(areas):.3f}, accuracy {accuracy:.3f}"
    accuracy_only = north | {"figures": dict.fromkeys(north["figures"]) | {"accuracy": 0.5}}
    assert score_text(accuracy_only, COVID) == "AUROC not estimable, accuracy 0.500"
    assert score_text(hospital(radiographs, "west")["federated"], COVID) == "withheld"
