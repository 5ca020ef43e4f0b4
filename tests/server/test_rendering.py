import json

import psutil

from consortium.server.rendering import Renderer, render
from consortium.server.results import add_note


def test_a_page_that_cannot_be_made_is_a_note_and_not_an_error(tmp_path):
    (tmp_path / "rounds.jsonl").write_text("")
    (tmp_path / "result.json").write_text(json.dumps({"notes": []}))
    note = render(tmp_path)
    assert note == "the page could not be made: KeyError: 'settings'"
    assert add_note(tmp_path, note) == {"notes": [note]}
    assert json.loads((tmp_path / "result.json").read_text()) == {"notes": [note]}


def test_a_renderer_that_died_is_a_note_too(tmp_path, tiny):
    renderer = Renderer(tmp_path, tiny())
    [process] = [p for p in psutil.Process().children() if str(tmp_path) in p.cmdline()]
    process.kill()
    assert renderer.finish() == "the page could not be made: exit code -9"
