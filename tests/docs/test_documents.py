"""What the documents point at exists: files, headings, scripts, commands and settings."""

import re

import pytest
from tests.conftest import ROOT

from consortium.cli.docs import settings_reference
from consortium.cli.main import app

DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("jobs/*/*.md"))]


def headings(path):
    """The anchors of a document's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def names(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=names)
def test_every_link_leads_to_a_file_and_a_heading(document):
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        path = (document.parent / file).resolve() if file else document
        assert path.exists(), f"{target} does not exist"
        assert not anchor or anchor in headings(path), f"{target} has no such heading"


@pytest.mark.parametrize("document", DOCUMENTS, ids=names)
def test_every_script_and_command_exists(document):
    text = document.read_text(encoding="utf-8")
    scripts = set(re.findall(r"(?<![\w/])scripts/([a-z-]+)", text))
    assert not [name for name in scripts if not (ROOT / "scripts" / name).exists()]
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    known = {name.replace("_", "-") for name in known}
    used = set(re.findall(r"(?:^|`|/)consortium ([a-z-]+)(?= )", text, re.MULTILINE))
    assert used <= known


@pytest.mark.parametrize("document", DOCUMENTS, ids=names)
def test_every_section_dot_key_of_the_settings_is_in_the_reference(document):
    text = document.read_text(encoding="utf-8")
    keys = set(re.findall(r"^\| `([\w.]+)` \|", settings_reference(), re.MULTILINE))
    sections = {key.partition(".")[0] for key in keys if "." in key}
    pattern = rf"(?<![\w.\-/])((?:{'|'.join(sections)})\.[a-z_]+(?:\.[a-z_0-9]+)?)\b(?![./(])"
    named = set(re.findall(pattern, text))
    parents = {key.rpartition(".")[0] for key in keys}
    assert not named - keys - parents - {"model.safetensors"}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_the_readme_leads_to_every_document():
    text = "".join(path.read_text(encoding="utf-8") for path in DOCUMENTS[:1])
    linked = set(re.findall(r"\]\((docs/[\w.]+)\)", text))
    # The list of finding codes is for who reads the hospital's document.
    assert linked == {names(path) for path in ROOT.glob("docs/*.md")} - {"docs/findings.md"}
    assert "](findings.md)" in (ROOT / "docs" / "hospital.md").read_text(encoding="utf-8")
