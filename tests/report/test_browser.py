"""The page in Chromium. Only `scripts/test --browser` runs these tests, so packages that only it
installs are imported where they are used.
"""

import os
import re
import shutil
import unicodedata
import zlib
from itertools import pairwise

import pytest
from tests.report.conftest import large_run, picture, radiograph_run, score

from consortium.report.page import render_report

pytestmark = pytest.mark.browser
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LOOKS = {
    "light": {"viewport": {"width": 1100, "height": 900}},
    "dark": {"viewport": {"width": 1100, "height": 900}, "color_scheme": "dark"},
    "narrow": {"viewport": {"width": 400, "height": 800}},
    "narrow and dark": {"viewport": {"width": 400, "height": 800}, "color_scheme": "dark"},
}
SHEET = {"width": 703, "height": 1000}  # 186 mm, what an upright A4 has between its margins
INTERACTIVE = "a[href], summary, [tabindex]"


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    path = shutil.which(os.environ.get("CHROMIUM", "chromium"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, tmp_path):
    """Opens a run's page; records its requests and the console's messages."""
    contexts = []

    def open_page(html, **look):
        file = tmp_path / "report.html"
        file.write_text(html, encoding="utf-8")
        context = chromium.new_context(**look)
        contexts.append(context)
        page = context.new_page()
        page.requests, page.messages = [], []
        page.on("request", lambda request: page.requests.append(request.url))
        page.on("console", lambda message: page.messages.append(message.text))
        page.on("pageerror", lambda error: page.messages.append(str(error)))
        page.goto(file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()


def small(run):
    for row in run["result"]["hospitals"][:2]:
        row["centralised"] = score(0.875, row["federated"]["patients"], (0.75, 1.0))
    return html_of(run, pictures=[picture("east"), picture("north", 1)])


def large(run):
    return html_of(large_run(run, 12, 45, cross_site=True), pictures=[picture("hospital-00")])


def of_radiographs(run):
    return html_of(radiograph_run(run))


def a_full_grid(run):
    return html_of(large_run(run, 4, 40))


def without_a_round(run):
    for row in run["result"]["hospitals"]:
        row |= {"cases": {"training": None, "validation": None}, "local": None, "federated": None}
    run["result"] |= {"rounds": 0, "best_round": None, "model_sha256": None}
    return html_of(run | {"rounds": [], "final": {"metrics": {}, "score": None}})


def html_of(run, **more):
    return render_report(run["result"], run["rounds"], final=run["final"], **more)


MADE = pytest.mark.parametrize("make", [small, large, without_a_round, of_radiographs])


def violations(page):
    from axe_playwright_python.sync_playwright import Axe

    report = Axe().run(page).response
    assert {"color-contrast", "document-title"} <= {rule["id"] for rule in report["passes"]}
    return [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in report["violations"]]


@MADE
@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing(run, visit, make, look):
    page = visit(make(run), **LOOKS[look])
    assert violations(page) == []
    for summary in page.query_selector_all("summary"):
        summary.click()
    assert violations(page) == []


@MADE
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_print(run, visit, make, scheme):
    page = visit(make(run), viewport=SHEET)
    page.emulate_media(media="print", color_scheme=scheme)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert violations(page) == []


def test_axe_would_find_something(run, visit):
    html = small(run).replace("--soft: #565e67", "--soft: #bbb").replace(' alt="', ' data-alt="')
    page = visit(html, **LOOKS["light"])
    assert {rule for rule, _ in violations(page)} == {"color-contrast", "image-alt"}


@MADE
def test_the_page_asks_for_nothing_but_itself_and_the_console_is_silent(run, visit, make):
    page = visit(make(run), **LOOKS["light"])
    page.wait_for_load_state("networkidle")
    assert [url for url in page.requests if not url.startswith("data:")] == [page.url]
    assert page.messages == []
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")


def test_dark_mode_is_dark(run, visit):
    page = visit(small(run), **LOOKS["dark"])
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"


@MADE
@pytest.mark.parametrize("width", [320, 400])
def test_a_narrow_window_never_scrolls_sideways(run, visit, make, width):
    page = visit(make(run), viewport={"width": width, "height": 800})
    for summary in page.query_selector_all("summary"):
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize(("make", "tables"), [(small, 2), (of_radiographs, 5)])
def test_at_400_px_the_comparison_is_seen_whole(run, visit, make, tables):
    page = visit(make(run), **LOOKS["narrow"])
    seen = page.evaluate(
        """() => [...document.querySelectorAll('.scroll:has(.compared), .scroll:has(.attended)')]
             .filter(region => !region.closest('details'))
             .map(region => region.scrollWidth <= region.clientWidth)"""
    )
    assert seen == [True] * tables


def test_long_names_do_not_burst_the_page(run, visit):
    for row in run["result"]["hospitals"]:
        if row["name"] == "west":
            row["name"] = "w" * 63
    for record in run["rounds"]:
        record["metrics"].pop("west", None)
    page = visit(html_of(run), **LOOKS["narrow"])
    assert page.evaluate("document.documentElement.scrollWidth") == 400


@MADE
def test_the_keyboard_reaches_all_that_acts_and_shows_where_it_is(run, visit, make):
    page = visit(make(run), **LOOKS["light"])
    wanted = page.evaluate(f"document.querySelectorAll('{INTERACTIVE}').length")
    reached = []
    for _ in range(wanted + 1):
        page.keyboard.press("Tab")
        at, tag, outline = page.evaluate(
            f"""() => {{
                const at = document.activeElement, style = getComputedStyle(at);
                const all = [...document.querySelectorAll('{INTERACTIVE}')];
                return [all.indexOf(at), at.tagName, style.outlineStyle + style.outlineWidth];
            }}"""
        )
        if at < 0:
            break
        assert outline == "solid3px"
        reached.append(at)
        if tag == "SUMMARY":
            page.keyboard.press("Enter")
    assert reached == list(range(wanted))
    assert wanted >= 5


def test_a_link_leads_to_its_section(run, visit):
    page = visit(small(run), **LOOKS["narrow"])
    page.get_by_role("link", name="Who took part").press("Enter")
    assert page.evaluate("document.querySelector('#attendance').getBoundingClientRect().top") < 800


def test_a_screen_reader_finds_landmarks_headings_and_the_grid(run, visit):
    page = visit(small(run), **LOOKS["light"])
    for role, name in {
        "navigation": "On this page",
        "region": "Who took part in each round",
        "table": "Rounds 1 to 2, from left to right.",
        "img": "Dice of the federated model, round by round: north",
    }.items():
        assert page.get_by_role(role, name=name, exact=True).count() == 1
    assert page.get_by_role("main").count() == 1
    levels = page.evaluate(
        "[...document.querySelectorAll('h1, h2, h3, h4')].map(heading => +heading.tagName[1])"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    row = page.get_by_role("row").filter(has_text="refused").first
    assert row.get_by_role("cell").all_inner_texts()[:2] == ["in", "\u00d7\nrefused"]


def test_the_print_holds_every_sections_text_and_all_that_was_folded(run, visit):
    page = visit(small(run), **LOOKS["dark"])
    printed = pdf_text(page.pdf(prefer_css_page_size=True, format="A4"))
    texts = page.evaluate(
        """[...document.querySelectorAll('h1, h2, h3, p, th, td, dd, pre, figcaption, .told')]
             .map(element => [...element.querySelectorAll('.sr')].length ? '' : element.textContent)
        """
    )
    assert len(texts) > 80
    assert [text for text in texts if squeeze(text) not in printed] == []
    for words in ("selection.keep=", f"{2:064x}", "95 % interval", "not-finite"):
        assert squeeze(words) in printed


@pytest.mark.parametrize("make", [small, large, without_a_round, of_radiographs, a_full_grid])
def test_nothing_is_cut_off_at_the_edge_of_a_sheet(run, visit, make):
    page = visit(make(run), viewport=SHEET)
    page.emulate_media(media="print")
    beyond = page.evaluate(
        """width => [...document.querySelectorAll('main :is(th, td, p, pre, dd, img, svg)')]
             .filter(element => !element.closest('.wide, .sr'))
             .filter(element => element.getBoundingClientRect().right > width + 1)
             .map(element => element.outerHTML.slice(0, 80))""",
        SHEET["width"],
    )
    assert beyond == []


def test_a_large_matrix_has_a_sheet_that_lies_on_its_side(run, visit):
    html = html_of(large_run(run, 60, 5, cross_site=True))
    page = visit(html, viewport={"width": 1032, "height": 700})  # 273 mm
    boxes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", page.pdf(prefer_css_page_size=True))
    assert any(float(width) > float(height) for width, height in boxes)
    assert any(float(width) < float(height) for width, height in boxes)
    page.emulate_media(media="print")
    assert page.evaluate("document.querySelector('.matrix').scrollWidth") <= 1032


def squeeze(text):
    return re.sub(r"\s", "", text)


def pdf_text(pdf):
    """The text of a PDF as Chromium writes it, in the order of painting and without spaces.

    Glyphs are two bytes of an embedded font, whose table ToUnicode (ISO 32000-1, 9.10.3) gives the
    characters.
    """
    objects = dict(re.findall(rb"\n(\d+) 0 obj\n(.*?)\nendobj", pdf, re.DOTALL))

    def inflate(body):
        return zlib.decompressobj().decompress(body.split(b"stream\n", 1)[1])

    fonts = {}
    for number, body in objects.items():
        if table := re.search(rb"/ToUnicode (\d+) 0 R", body):
            fonts[number] = characters(inflate(objects[table[1]]).decode("ascii"))
    text = []
    for page in objects.values():
        if not re.search(rb"/Type /Page\b(?!s)", page):
            continue
        content = inflate(objects[re.search(rb"/Contents (\d+) 0 R", page)[1]])
        font = {}
        for name, glyphs in re.findall(rb"/F(\d+) [\d.]+ Tf|<([0-9A-F]+)> Tj", content):
            if name:
                font = fonts[name]
            text += [
                font.get(glyphs[at : at + 4].decode(), "\ufffd") for at in range(0, len(glyphs), 4)
            ]
    # A font may draw two letters as one.
    return squeeze(unicodedata.normalize("NFKC", "".join(text)))


def characters(table):
    """The characters of a font's glyphs, by the glyph's number in hexadecimal."""
    characters_of = {}
    for block in re.findall(r"beginbfchar(.*?)endbfchar", table, re.DOTALL):
        for glyph, text in re.findall(r"<(\w+)> <(\w+)>", block):
            characters_of[glyph] = bytes.fromhex(text).decode("utf-16-be")
    for block in re.findall(r"beginbfrange(.*?)endbfrange", table, re.DOTALL):
        for first, last, text in re.findall(r"<(\w+)> <(\w+)> <(\w+)>", block):
            for step in range(int(last, 16) - int(first, 16) + 1):
                characters_of[f"{int(first, 16) + step:04X}"] = chr(int(text, 16) + step)
    return characters_of
