import copy
import re
from html.parser import HTMLParser

import pytest
from tests.report.conftest import WITHHELD, large_run, picture, record, refusal, reported, score

from consortium.report.page import render_report


class Page(HTMLParser):
    """The page's tags with their attributes, and its text: what is visible and what is read out."""

    def __init__(self, html):
        super().__init__()
        self.tags, self._words, self._read, self.open = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag, f"</{tag}> closes another element"

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        if {"style", "title"} & {tag for tag, _ in self.open}:
            return
        if not any(around.get("class") == "sr" for _, around in self.open):
            self._words += data.split()
        if not any("aria-hidden" in around for _, around in self.open):
            self._read += data.split()

    @property
    def text(self):
        """What is seen."""
        return " ".join(self._words)

    @property
    def read_out(self):
        """What a screen reader finds."""
        return " ".join(self._read)

    def all(self, tag, css=None):
        return [
            attributes
            for name, attributes in self.tags
            if name == tag and (css is None or css in attributes.get("class", "").split())
        ]


VOID = {"meta", "img", "br", "link", "input"}


def html_of(run, **more):
    return render_report(run["result"], run["rounds"], final=run["final"], **more)


def render(run, **more):
    return Page(html_of(run, **more))


def test_an_incomplete_run_says_so_and_why_before_anything_else(run):
    text = render(run).text
    assert "Not complete. east is missing from round 2 (not-finite layer.weight)." in text
    assert text.index("Not complete") < text.index("trained one model together")


def test_a_complete_run_says_so(run):
    run["result"] |= {"complete": True, "reason": ""}
    text = render(run).text
    assert "Complete. Every hospital" in text
    assert "Not complete" not in text


def test_the_summary_names_the_model_and_the_hospitals(run):
    run["result"]["settings"]["network"]["name"] = "segresnet"
    assert (
        "The hospitals east, north and west trained one model together: a 2-D SegResNet that"
        " outlines tumour on pre-contrast, FLAIR and post-contrast images. It was trained for 2"
        " rounds on 34 training cases, which stayed at the hospitals. Only model updates and the"
        " figures of this run left a hospital. On 32"
    ) in render(run).text


def test_the_summary_weighs_hospitals_by_their_patients_and_leaves_out_the_withheld(run):
    text = render(run).text
    # (8 x 0.75 + 24 x 0.5) / 32 and (8 x 0.5 + 24 x 0.625) / 32
    assert (
        "On 32 validation patients, who took no part in training, the federated model reaches a"
        " mean Dice of 0.562. The local models, which each hospital trained alone, reach 0.594,"
        " each on its own hospital's patients. The federated model's mean is higher at 1 of 2"
        " hospitals."
    ) in text
    assert "in one place" not in text


def test_a_model_trained_on_all_cases_is_compared_where_it_is_known(run):
    for row in run["result"]["hospitals"][:2]:
        row["centralised"] = score(0.875, row["federated"]["patients"], (0.75, 1.0))
    page = render(run)
    assert (
        "The centralised model, which was trained on all cases in one place, reaches 0.875."
        in page.text
    )
    assert "stayed at the hospitals" not in page.text
    assert "all of them in one place, which only a simulation can do." in page.text
    assert (
        "east 10 training cases, 8 patients local 0.500 0.25\u20130.62 federated 0.750" in page.text
    )
    assert "centralised 0.875 0.75\u20131.00" in page.text


def test_a_score_of_the_patients_that_chose_the_model_is_called_too_good(run):
    assert "too good" not in render(run).text
    run["result"]["settings"]["selection"]["keep"] = "best"
    assert "was selected on these same patients, so its score is too good" in render(run).text


def test_each_hospital_has_its_figures_and_the_withheld_ones_are_words(run):
    text = render(run).text
    assert (
        "east 10 training cases, 8 patients local 0.500 0.25\u20130.62 federated 0.750"
        " 0.50\u20130.88 north 20 training cases, 24 patients local 0.625 0.50\u20130.75"
        " federated 0.500 0.38\u20130.62 west 4 training cases withheld by the hospital: fewer"
        " than 5 patients"
    ) in text


def test_the_means_of_all_have_no_interval_and_say_how_many_hospitals_they_are_of(run):
    text = render(run).text
    assert "2 of 3 hospitals 32 patients local 0.594 \u2013 federated 0.562 \u2013" in text
    assert "all 2 hospitals 16 patients local 0.500 \u2013" in render(large_run(run, 2, 2)).text
    text = render(large_run(run, 1, 2)).text
    assert "all 1" not in text
    assert "all hospitals" not in text
    assert "The hospital hospital-00 trained" in text


def test_the_dots_and_whiskers_stand_where_the_figures_are(run):
    page = render(run)
    dots = [
        (tag["href"], tag["x"]) for tag in page.all("use") if tag.get("y") and tag["x"] != "50%"
    ]
    assert dots == [
        ("#local", "50.00%"),
        ("#federated", "75.00%"),
        ("#local", "62.50%"),
        ("#federated", "50.00%"),
        ("#local", "59.38%"),
        ("#federated", "56.25%"),
    ]
    spans = [
        (tag["x1"], tag["x2"]) for tag in page.all("line", "whisker") if tag["x1"] != tag["x2"]
    ]
    assert spans == [
        ("25.00%", "62.50%"),
        ("50.00%", "87.50%"),
        ("50.00%", "75.00%"),
        ("37.50%", "62.50%"),
    ]


def test_the_axis_starts_at_a_half_where_nothing_lies_below_and_says_so(run):
    assert "drawn from 0 to 1" in render(run).read_out
    for row in run["result"]["hospitals"][:2]:
        row["local"], row["federated"] = score(0.75), score(0.875, 8, (0.5, 1.0))
    page = render(run)
    assert "drawn from 0.5 to 1" in page.read_out
    assert {tag["x"] for tag in page.all("use") if tag.get("y")} == {"50%", "50.00%", "75.00%"}


def test_a_result_without_intervals_has_no_column_for_them(run):
    for row in run["result"]["hospitals"]:
        for model in ("local", "federated"):
            row[model] = {k: v for k, v in row[model].items() if k != "interval"}
        del row["centralised"]
    page = render(run)
    assert "local 0.500 federated 0.750 north" in page.text
    assert "95 % interval" not in page.text
    assert not page.all("line", "whisker")


def test_one_missing_interval_is_a_dash_beside_the_others(run):
    run["result"]["hospitals"][0]["federated"]["interval"] = None
    assert "federated 0.750 \u2013 north" in render(run).text


def test_every_structure_has_a_table_of_its_own(run):
    data = run["result"]["settings"]["data"]
    data["labels"] = {"core": [1], "rim": [2]}
    for row in run["result"]["hospitals"][:2]:
        row["federated"] = {"patients": 8, "figures": {"core": 0.25, "rim": 0.75}, "withheld": None}
        row["local"] = None
    run["result"]["hospitals"][2]["local"] = None
    page = render(run)
    core = page.text.index(" core hospital model")
    rim = page.text.index(" rim hospital model")
    assert "8 patients federated 0.250" in page.text[core:rim]
    assert "8 patients federated 0.750" in page.text[rim:]
    assert "withheld by the hospital: fewer than 5 patients" in page.text[core:rim]
    assert "trained alone" not in page.text


def test_a_hospital_that_scored_one_of_two_models_says_which_is_missing(run):
    run["result"]["hospitals"][0]["local"] = None
    assert "east 10 training cases, 8 patients local not scored federated 0.750" in render(run).text


def test_a_run_in_which_all_is_withheld_says_so_and_draws_no_dot(run):
    for row in run["result"]["hospitals"]:
        row |= {"local": WITHHELD, "federated": WITHHELD}
    for number, line in enumerate(run["rounds"]):
        line |= {
            "score": None,
            "metrics": {name: reported(None, WITHHELD) for name in line["cases"]},
        }
        assert number < 2
    run["final"] = {"metrics": {}, "score": None}
    page = render(run)
    assert "No hospital reported a score of the federated model." in page.text
    assert page.text.count("withheld by the hospital: fewer than 5 patients") == 3
    assert not page.all("path", "curve")
    assert not [tag for tag in page.all("use") if tag.get("x", "50%") != "50%"]


def test_who_took_part_is_a_table_that_a_screen_reader_reads(run):
    page = render(run)
    assert "east in refused 1 of 2 north in in 2 of 2 west in failed 1 of 2" in page.read_out
    assert "east \u00d7 1 of 2" in page.text
    assert "west ! 1 of 2" in page.text
    assert "2 east refused not-finite layer.weight" in page.text
    assert "2 west failed missing-file" in page.text


def test_an_update_refused_besides_one_that_was_taken_is_listed(run):
    run["rounds"][1] = record(1, refused=[refusal("north", "", "duplicate", 7)])
    page = render(run)
    assert "2 north refused duplicate \u00d7 7" in page.text
    assert "north in in 2 of 2" in page.read_out


def test_many_rounds_are_a_strip_with_the_absences_in_words(run):
    late = {4, 5, 8}
    run["rounds"] = [
        record(k, ["east", "north"], late=["west"] if k in late else [], lost=["west"])
        for k in range(100)
    ]
    page = render(run)
    late_rounds = "too late in rounds 5\u20136, 9"
    assert "east every round 100 of 100" in page.read_out
    assert (
        f"no answer in rounds 1\u20134, 7\u20138, 10\u2013100; {late_rounds} 0 of 100"
        in page.read_out
    )
    assert "1\u20134, 7\u20138, 10\u2013100 west no answer" in page.text
    [strip] = page.all("path", "late")
    assert strip["d"] == "M4 0h2v1h-2zM8 0h1v1h-1z"


def test_curves_run_through_the_scores_of_each_model(run):
    page = render(run)
    lines = [tag["d"] for tag in page.all("path", "curve")]
    # 200 wide for 2 rounds, 96 high for a Dice of 1: all, then east, north, west; then the loss.
    assert lines[:3] == ["M0,72L100,72L200,42", "M0,86.4h0M200,24h0", "M0,76.8L100,72L200,48"]
    assert lines[3] == ""
    assert "west 1 0.5 0 0 round 2 no value reported" in page.text
    assert "north 1 0.5 0 0 round 2 from 0.200 to 0.500; local model 0.625" in page.text


def test_a_curve_that_ends_below_its_best_says_so(run):
    run["rounds"][1]["metrics"]["north"]["validation"] = score(0.75, 24)
    assert "from 0.200 to 0.500, highest 0.750 in round 1; local model 0.625" in render(run).text


def test_many_hospitals_have_a_band_behind_their_curves(run):
    page = render(large_run(run, 12, 3))
    dice, _ = page.all("path", "band")
    # Heights of Dice 0.11, 0.12, 0.13 and 0.75 above, 0, 0.01, 0.02 and 0.75 below.
    assert dice["d"] == ("M0,85.4 66.7,84.5 133.3,83.5 200,24 200,24 133.3,94.1 66.7,95 0,96z")
    assert "The grey band is the range of all hospitals." in page.text


def test_the_average_of_the_last_models_is_named(run):
    run["result"]["settings"]["selection"] |= {"keep": "average", "share": 1.0}
    run["result"]["settings"]["rounds"] = 2
    text = render(run).text
    assert "after 2 rounds: the average of the last 2 models" in text
    assert "The last point is the average of the last 2 models." in text
    run["result"]["settings"]["selection"] |= {"keep": "last"}
    assert "average of the last" not in render(run).text


def test_every_drawing_is_hidden_from_screen_readers_or_has_a_name(run):
    page = render(run, pictures=[picture("east")])
    ids = [tag["id"] for _, tag in page.tags if "id" in tag]
    assert len(ids) == len(set(ids))
    for _, tag in page.tags:
        assert set(tag.get("aria-labelledby", "").split()) <= set(ids)
        if tag.get("href", "").startswith("#"):
            assert tag["href"][1:] in ids
    for drawing in page.all("svg"):
        assert "aria-hidden" in drawing or (drawing["role"] == "img" and drawing["aria-label"])
    scopes = {tag.get("scope") for tag in page.all("th")}
    assert scopes == {"col", "row", "rowgroup"}


def test_the_page_needs_no_network(run):
    html = html_of(run, pictures=[picture("east")])
    assert not re.search(r"https?:|<script|<link|url\(|@import", html)
    assert "default-src 'none'" in html


def test_a_picture_is_inside_with_words_for_those_who_do_not_see_it(run):
    page = render(run, pictures=[picture("east <1>", 7)])
    [image] = page.all("img")
    assert image["alt"] == "east <1>, scan 7: image, truth and prediction side by side"
    assert image["src"].startswith("data:image/png;base64,iVBOR")
    assert "image truth prediction east <1>, scan 7. The true outline is blue." in page.text


def test_pictures_stop_before_the_page_grows_too_large(run):
    run = large_run(run, 30, 15)
    names = [row["name"] for row in run["result"]["hospitals"]]
    html = html_of(run, pictures=[picture(name, k, 288) for k, name in enumerate(names)])
    shown = len(Page(html).all("img"))
    assert 1 < shown < 30
    assert f"{30 - shown} more would make this page too large and are left out." in html
    assert len(html.encode()) <= 2_000_000


def test_the_demos_pictures_of_30_hospitals_are_all_shown(run):
    run = large_run(run, 30, 15)
    names = [row["name"] for row in run["result"]["hospitals"]]
    html = html_of(run, pictures=[picture(name, k) for k, name in enumerate(names)])
    assert len(Page(html).all("img")) == 30
    assert len(html.encode()) <= 2_000_000


def test_text_from_outside_cannot_become_markup(run):
    evil = "<script>alert(1)</script>"
    run["result"]["reason"] = evil
    run["rounds"][1]["refused"][0]["tensor"] = evil
    html = html_of(run)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 2


def test_a_refused_tensors_name_is_cut_short(run):
    run["rounds"][1]["refused"][0]["tensor"] = "x" * 5000
    html = html_of(run)
    assert "x" * 120 + "\u2026" in html
    assert "x" * 121 not in html


def test_settings_show_the_start_model_by_its_name_and_not_where_it_lies(run):
    run["result"]["settings"]["training"]["batch"] = 17
    run["result"]["settings"]["model"]["from"] = "/srv/models/start.safetensors"
    text = render(run).text
    assert 'model.from="start.safetensors"' in text
    assert "/srv/models" not in text
    assert "training.batch=17" in text


def test_versions_and_digests_are_shown_and_a_broken_chain_is_named(run):
    text = render(run).text
    assert f"Its sha256 {'ab' * 32} Versions consortium 0.1.0, torch 2.13.0" in text
    assert f"0 {0:064x} 1 {1:064x} 2 {2:064x}" in text
    assert "did not start" not in text
    run["rounds"][1]["base_sha256"] = "cd" * 32
    assert f"2 {2:064x} (the round did not start from the model above)" in render(run).text


def test_the_cross_site_matrix_is_a_table(run):
    assert "Every hospital's model at every hospital" not in render(run).text
    run["result"]["cross_site"] = {
        "east": {"east": score(0.5), "north": score(0.25), "west": WITHHELD},
        "north": {"east": score(0.5)},
    }
    text = render(run).text
    assert "east 0.50 0.25 withheld north 0.50 \u2013 \u2013" in text


def test_a_run_without_a_round_has_a_page(run):
    for row in run["result"]["hospitals"]:
        row |= {"cases": {"training": None, "validation": None}, "local": None, "federated": None}
    run["result"] |= {"rounds": 0, "best_round": None, "model_sha256": None}
    page = render({**run, "rounds": [], "final": {"metrics": {}, "score": None}})
    assert "were to train one model together: a 2-D U-Net" in page.text
    assert "No round was closed." in page.text
    assert "east not scored north not scored west not scored" in page.text
    assert "Its sha256 none" in page.text
    targets = {tag["href"] for tag in page.all("a")}
    assert targets == {"#hospitals", "#made"}


def test_the_same_run_gives_the_same_page_and_its_inputs_stay(run):
    before = copy.deepcopy(run)
    assert html_of(run) == html_of(run)
    assert run == before


@pytest.mark.parametrize(("hospitals", "rounds"), [(60, 300), (12, 1500), (1, 1)])
def test_large_runs_stay_below_two_megabytes(run, hospitals, rounds):
    html = html_of(large_run(run, hospitals, rounds, cross_site=True))
    pictures = 1_000_000
    assert len(html.encode()) + pictures <= 2_000_000
    page = Page(html)
    assert not page.open
    assert f"hospital-{hospitals - 1:02d}" in page.text
