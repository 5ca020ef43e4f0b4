import base64
import copy
import re
from html.parser import HTMLParser

from tests.report.conftest import record, said, score

from consortium.report.page import render_report


class Page(HTMLParser):
    """The page's tags with their attributes, and its visible text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self._words, self._hidden, self.open = [], [], 0, []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        if not {"style", "title"} & set(self.open):
            self._words += data.split()

    @property
    def text(self):
        return " ".join(self._words)

    def all(self, tag, css=None):
        return [
            found
            for name, found in self.tags
            if name == tag and (css is None or css in found.get("class", "").split())
        ]


VOID = {"meta", "img", "br", "link", "input"}


def render(run, **more):
    return Page(render_report(run["result"], run["rounds"], final=run["final"], **more))


def test_an_incomplete_run_says_so_and_why_before_anything_else(run):
    text = render(run).text
    assert "Not complete. east is missing from round 2 (not-finite layer.weight)." in text
    assert text.index("Not complete") < text.index("trained one model together")


def test_a_complete_run_says_so(run):
    run["result"] |= {"complete": True, "reason": ""}
    text = render(run).text
    assert "Complete. Every hospital" in text
    assert "Not complete" not in text


def test_the_summary_weighs_hospitals_by_their_patients_and_leaves_out_the_withheld(run):
    text = render(run).text
    assert "The hospitals east, north and west trained one model together over 2 rounds" in text
    assert "on 34 training cases" in text
    # (8 x 0.75 + 24 x 0.5) / 32 and (8 x 0.5 + 24 x 0.625) / 32
    assert "On 32 validation patients" in text
    assert "a mean Dice of 0.562;" in text
    assert "trained alone reach 0.594 on" in text


def test_a_score_of_the_patients_that_chose_the_model_is_called_too_good(run):
    assert "too good" not in render(run).text
    run["result"]["settings"]["selection"]["keep"] = "best"
    assert "was chosen on these very patients, so its score is too good" in render(run).text


def test_each_hospital_has_its_figures_and_the_withheld_ones_are_words(run):
    page = render(run)
    assert "east 10 8 0.500 0.750 +0.250" in page.text
    assert "north 20 24 0.625 0.500 \u22120.125" in page.text
    assert "west 4 \u2013 withheld by the hospital: fewer than 5 patients" in page.text
    plotted = {(dot["class"], dot["cx"]) for dot in page.all("circle") if "%" in dot["cx"]}
    key = {("shared", "50%"), ("alone", "50%")}
    assert plotted - key == {
        ("alone", "50.0%"),
        ("shared", "75.0%"),
        ("alone", "62.5%"),
        ("shared", "50.0%"),
    }


def test_every_structure_has_a_line_of_its_own(run):
    for row in run["result"]["hospitals"][:2]:
        row["shared"] = {"patients": 8, "dice": {"core": 0.25, "rim": 0.75}, "withheld": None}
        row["alone"] = None
    run["result"]["hospitals"][2]["alone"] = None
    text = render(run).text
    assert "east 10 8 core 0.250 rim 0.750" in text
    assert "a model trained at this hospital alone" not in text


def test_who_took_part_is_drawn_and_what_was_left_out_is_told(run):
    page = render(run)
    states = [tag["class"] for tag in page.all("rect") if "x" in tag]
    assert states == ["answered", "refused", "answered", "answered", "answered", "failed"]
    assert "2 east refused not-finite layer.weight" in page.text
    assert "2 west said it failed missing-file" in page.text
    assert "east \u00d7 1 of 2" in page.text
    assert "west ! 1 of 2" in page.text


def test_an_update_refused_beside_one_that_was_taken_is_told(run):
    run["rounds"][1] = record(1, refused=[{"hospital": "north", "tensor": "", "code": "duplicate"}])
    page = render(run)
    assert "2 north refused duplicate" in page.text
    assert {tag["class"] for tag in page.all("rect") if "x" in tag} == {"answered"}


def test_absence_over_many_rounds_is_one_line(run):
    run["rounds"] = [record(k, ["east", "north"], lost=["west"]) for k in range(100)]
    page = render(run)
    assert "1 to 100 west no answer" in page.text
    assert len([tag for tag in page.all("rect") if "x" in tag]) == 3


def test_curves_run_through_the_scores_of_each_model(run):
    page = render(run)
    lines = [tag["points"] for tag in page.all("polyline", "mine")]
    # 200 wide for 2 rounds, 96 high for a Dice of 1: all, then east, north, west.
    assert lines[0] == "0,72 100,72 200,42"
    assert lines[1] == "0,86.4 200,24"
    assert lines[2] == "0,76.8 100,72 200,48"
    assert lines[3] == ""
    assert "nothing was let out" in page.text


def test_every_drawing_is_hidden_from_screen_readers_or_has_a_name_and_a_description(run):
    page = render(run)
    ids = [tag["id"] for _, tag in page.tags if "id" in tag]
    assert len(ids) == len(set(ids))
    for drawing in page.all("svg"):
        if "aria-hidden" not in drawing:
            assert drawing["role"] == "img"
            assert set(drawing["aria-labelledby"].split()) <= set(ids)
    assert all(tag.get("scope") in ("col", "row") for tag in page.all("th"))


def test_the_page_needs_no_network(run):
    html = render_report(run["result"], run["rounds"], final=run["final"], pictures=[PICTURE])
    assert not re.search(r"https?:|<script|<link|url\(|@import", html)
    assert "default-src 'none'" in html


PICTURE = {"title": "east, patient <1>", "caption": "generated", "png": b"\x89PNG..."}


def test_a_picture_is_inside_with_words_for_those_who_do_not_see_it(run):
    [image] = render(run, pictures=[PICTURE]).all("img")
    assert image["alt"] == "east, patient <1>: generated"
    encoded = base64.b64encode(PICTURE["png"]).decode()
    assert image["src"] == f"data:image/png;base64,{encoded}"


def test_text_from_outside_cannot_become_markup(run):
    evil = "<script>alert(1)</script>"
    run["result"]["reason"] = evil
    run["rounds"][1]["refused"][0]["tensor"] = evil
    html = render_report(run["result"], run["rounds"], final=run["final"])
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 2


def test_the_cross_site_matrix_is_a_table(run):
    assert "Every hospital's model at every hospital" not in render(run).text
    run["result"]["cross_site"] = {"east": {"east": score(0.5), "north": score(0.25)}}
    assert "east 0.500 0.250 \u2013" in render(run).text


def test_a_run_without_a_round_has_a_page(run):
    for row in run["result"]["hospitals"]:
        row |= {"cases": {"training": None, "validation": None}, "alone": None, "shared": None}
    run["result"] |= {"rounds": 0, "best_round": None, "model_sha256": None}
    text = render({**run, "rounds": [], "final": {"metrics": {}, "score": None}}).text
    assert "no round was closed" in text
    assert "model.safetensors : none" in text


def test_the_same_run_gives_the_same_page_and_its_inputs_stay(run):
    before = copy.deepcopy(run)
    one = render_report(run["result"], run["rounds"], final=run["final"])
    assert one == render_report(run["result"], run["rounds"], final=run["final"])
    assert run == before


def test_dozens_of_hospitals_and_hundreds_of_rounds_stay_below_two_megabytes(run):
    names = [f"hospital-{number:02d}" for number in range(64)]
    row = run["result"]["hospitals"][0]
    run["result"]["hospitals"] = [{**row, "name": name} for name in names]
    run["rounds"] = [
        record(k, names, metrics={name: said(0.5, score(0.123)) for name in names})
        | {"asked": names}
        for k in range(300)
    ]
    run["final"] = {"metrics": {}, "score": None}
    html = render_report(run["result"], run["rounds"], final=run["final"])
    assert len(html.encode()) < 2_000_000
    assert not Page(html).open
