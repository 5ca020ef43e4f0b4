"""JSON that others have written: read within limits, or refused in one sentence."""

import json
import os

import pytest

from consortium.core.errors import UsageError
from consortium.core.json_files import MAX_DEPTH, parse_json, read_json_object
from consortium.settings.base import override


def nested(levels, opening="[", closing="]"):
    return opening * levels + closing * levels


def refusal_of(path):
    with pytest.raises(UsageError, match="bad-json") as refusal:
        read_json_object(path)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize("levels", [MAX_DEPTH + 2, 900, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a": ', "}")])
def test_json_nested_too_deeply_is_refused_in_one_sentence(tmp_path, levels, opening, closing):
    inner = nested(levels, opening, closing).replace(": }", ": 1}")
    path = tmp_path / "dataset.json"
    path.write_text(f'{{"training": {inner}}}')
    assert f"nested more than {MAX_DEPTH} levels" in refusal_of(path)


def test_json_that_is_as_deep_as_allowed_is_read():
    assert json.dumps(parse_json(nested(MAX_DEPTH))) == nested(MAX_DEPTH)


def test_a_setting_on_the_command_line_is_held_to_the_same_depth():
    deep = nested(100_000)
    assert override({}, [f"task={deep}"]) == {"task": deep}  # a string, which no setting accepts


def test_a_sparse_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "dataset.json"
    path.touch()
    os.truncate(path, 1 << 40)
    assert "larger than" in refusal_of(path)


@pytest.mark.parametrize("kind", ["pipe", "link to a device"])
def test_nobody_waits_for_a_pipe_or_a_device(tmp_path, kind):
    path = tmp_path / "dataset.json"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    assert "not a plain file" in refusal_of(path)
