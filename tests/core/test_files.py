import errno
import subprocess
import sys

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tests.disks import mounted

from consortium.core.errors import EnvironmentProblem
from consortium.core.files import (
    create_file,
    replace_file,
    require_room,
    whole_folder,
    write_json,
)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 2 MB."""
    with mounted(tmp_path / "disk", 2 << 20) as folder:
        yield folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "deep" / "file.json"
    write_json(path, {"a": 1})
    write_json(path, {"a": 2})
    assert path.read_text() == '{\n  "a": 2\n}\n'
    assert names(path.parent) == ["file.json"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), ValueError("NaN")])
def test_after_any_error_the_old_file_stands_and_no_partial_file_is_left(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")

    def write_half(partial):
        partial.write_text("ha")
        raise error

    with pytest.raises((EnvironmentProblem, ValueError)):
        replace_file(path, write_half)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_full_disk_is_reported_in_one_line(tmp_path):
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
    path = tmp_path / "model"
    for text in ("one", "two"):
        with whole_folder(path) as partial:
            assert names(partial) == []
            (partial / text).write_text(text)
    assert names(path) == ["two"]
    assert names(tmp_path) == ["model"]


def test_a_folder_that_could_not_be_filled_leaves_the_old_one(tmp_path):
    path = tmp_path / "model"
    with whole_folder(path) as partial:
        (partial / "old").write_text("old")

    def fill(partial):
        (partial / "new").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(EnvironmentProblem, match="disk-full"), whole_folder(path) as partial:
        fill(partial)
    assert names(path) == ["old"]
    assert names(tmp_path) == ["model"]


def test_a_file_is_created_once(tmp_path):
    path = tmp_path / "new" / "owner"
    assert create_file(path, b"first")
    assert not create_file(path, b"second")
    assert path.read_text() == "first"
    assert [file.name for file in path.parent.iterdir()] == ["owner"]


FILL = """
import resource, signal, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from consortium.core.files import replace_file
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
replace_file(Path(sys.argv[1]), lambda path: save_file({"a": torch.zeros(10_000)}, path))
"""


def test_tensors_that_cannot_be_written_are_reported_like_any_other_file(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("old")
    run = subprocess.run([sys.executable, "-c", FILL, path], capture_output=True, text=True)
    assert f"error cannot-write: File too large, {path}" in run.stderr
    assert path.read_text() == "old"


def test_tensors_on_a_full_disk_are_a_full_disk(small_disk):
    path = small_disk / "model.safetensors"
    tensors = {"a": torch.zeros(1_000_000)}
    with pytest.raises(EnvironmentProblem, match=r"error disk-full: No space left on device, "):
        replace_file(path, lambda partial: save_file(tensors, partial))
    assert not path.exists()


def test_tensors_that_cannot_be_read_are_no_fault_of_the_disk(tmp_path):
    (tmp_path / "b").write_bytes(b"no tensors")
    with pytest.raises(SafetensorError):
        replace_file(tmp_path / "a", lambda path: load_file(tmp_path / "b"))


def test_room_is_as_much_as_the_largest_file(small_disk):
    require_room(small_disk)
    (small_disk / "model").write_bytes(bytes(700_000))
    with pytest.raises(EnvironmentProblem, match="disk-full"):
        require_room(small_disk)
    assert names(small_disk) == ["model"]


def test_a_folder_that_cannot_be_written_has_no_room(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EnvironmentProblem, match="cannot-write"):
        require_room(tmp_path / "file" / "checkpoints")
