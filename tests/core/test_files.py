import errno
import subprocess
import sys

import pytest

from consortium.core.errors import EnvironmentProblem
from consortium.core.files import replace_file, whole_folder, write_json


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "deep" / "file.json"
    write_json(path, {"a": 1})
    write_json(path, {"a": 2})
    assert path.read_text() == '{\n  "a": 2\n}\n'
    assert names(path.parent) == ["file.json"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), ValueError("NaN")])
def test_whatever_goes_wrong_the_old_file_stands_and_nothing_is_left_beside(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")

    def write_half(beside):
        beside.write_text("ha")
        raise error

    with pytest.raises((EnvironmentProblem, ValueError)):
        replace_file(path, write_half)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_disk_that_is_really_full_is_told_in_one_line(tmp_path):
    """A limit on the file size stands in for a full disk: the write fails in the kernel."""
    path = tmp_path / "file"
    path.write_text("old")
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from consortium.core.files import write_text\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write_text(Path(sys.argv[1]), 'x' * 100_000)\n"
    )
    run = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True)
    assert f"error cannot-write: File too large, {path}" in run.stderr
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_folder_is_replaced_whole(tmp_path):
    place = tmp_path / "model"
    for text in ("one", "two"):
        with whole_folder(place) as beside:
            assert names(beside) == []
            (beside / text).write_text(text)
    assert names(place) == ["two"]
    assert names(tmp_path) == ["model"]


def test_a_folder_that_could_not_be_filled_leaves_the_old_one(tmp_path):
    place = tmp_path / "model"
    with whole_folder(place) as beside:
        (beside / "old").write_text("old")

    def fill(beside):
        (beside / "new").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(EnvironmentProblem, match="disk-full"), whole_folder(place) as beside:
        fill(beside)
    assert names(place) == ["old"]
    assert names(tmp_path) == ["model"]
