import errno
from pathlib import Path

import pytest

from consortium.core.errors import EnvironmentProblem, Refused
from consortium.orchestration.checkpoints import Checkpoint, CheckpointStore, spare_of
from consortium.orchestration.records import Refusal, RoundRecord

RECORD = RoundRecord(
    round=0,
    base_sha256="a",
    asked=["north"],
    answered=["north"],
    refused=[Refusal("west", "w", "not-finite")],
    result_sha256="b",
)


def checkpoint(number, best):
    return Checkpoint(
        run="run",
        settings={"rounds": 3},
        records=[RECORD] * number,
        selection={"best_model": 0},
        model=f"model-{number}.safetensors",
        model_sha256="b",
        best=f"model-{best}.safetensors",
        start="model-0.safetensors",
    )


def files(*numbers, text=""):
    return {
        f"model-{number}.safetensors": lambda path, number=number: (
            path.write_text(f"{text} {number}") and None
        )
        for number in numbers
    }


def spare(checkpoints, number, text=""):
    name = f"model-{number}.safetensors"
    checkpoints.write_spare(name, files(number, text=text)[name])


def two_checkpoints(folder):
    """Two checkpoints that share the start model and the best one."""
    checkpoints, text = CheckpointStore(folder), "a model of some bytes, of round"
    checkpoints.write(checkpoint(1, 1), files(0, 1, text=text))
    for number in (0, 1):
        spare(checkpoints, number, text)
    checkpoints.write(checkpoint(2, 1), files(2, text=text))
    return checkpoints


def test_a_checkpoint_is_read_back(tmp_path):
    checkpoints = CheckpointStore(tmp_path / "checkpoints")
    assert checkpoints.read() is None
    checkpoints.write(checkpoint(1, 0), files(0, 1))
    assert checkpoints.read() == checkpoint(1, 0)


def test_the_files_of_the_last_two_checkpoints_are_kept(tmp_path):
    checkpoints = CheckpointStore(tmp_path)
    for number, best in ((1, 1), (2, 1), (3, 3), (4, 3)):
        checkpoints.write(checkpoint(number, best), files(*((0, 1) if number == 1 else (number,))))
        for spared in (0, best) if number in (1, best) else ():
            spare(checkpoints, spared)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "checkpoint-000003.json",
        "checkpoint-000004.json",
        "model-0.safetensors",
        "model-0.spare.safetensors",
        "model-3.safetensors",
        "model-3.spare.safetensors",
        "model-4.safetensors",
    }
    assert checkpoints.read() == checkpoint(4, 3)


def damage(path, how):
    whole = path.read_bytes()
    match how:
        case "cut":
            path.write_bytes(whole[: len(whole) // 2])
        case "bit":
            path.write_bytes(whole[:20] + bytes([whole[20] ^ 1]) + whole[21:])
        case "gone":
            path.unlink()
        case "empty":
            path.write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *(("model-2.safetensors", how) for how in ("cut", "bit", "gone", "empty")),
        *(("checkpoint-000002.json", how) for how in ("cut", "bit", "empty")),
    ],
)
def test_a_damaged_checkpoint_is_reported_and_the_previous_one_is_used(tmp_path, name, how):
    two_checkpoints(tmp_path)
    damage(tmp_path / name, how)
    again = CheckpointStore(tmp_path)
    assert again.read() == checkpoint(1, 1)
    [note] = again.notes
    assert note.startswith("checkpoint-000002.json is left out: ")
    again.write(checkpoint(2, 1), files(2, text="a model of some bytes, the second"))
    assert CheckpointStore(tmp_path).read() == checkpoint(2, 1)


@pytest.mark.parametrize("how", ["cut", "bit", "gone", "empty"])
@pytest.mark.parametrize("number", [0, 1])
def test_a_damaged_file_that_both_checkpoints_name_is_restored(tmp_path, number, how):
    two_checkpoints(tmp_path)
    name = f"model-{number}.safetensors"
    for damaged, other in ((name, spare_of(name)), (spare_of(name), name)):
        whole = (tmp_path / damaged).read_bytes()
        damage(tmp_path / damaged, how)
        again = CheckpointStore(tmp_path)
        assert again.read() == checkpoint(2, 1)
        assert again.notes == [f"{damaged} was damaged and is restored from {other}"]
        assert (tmp_path / damaged).read_bytes() == whole


@pytest.mark.parametrize("how", ["cut", "bit", "empty"])
@pytest.mark.parametrize("name", ["model-1.safetensors", "checkpoint-000001.json"])
def test_a_run_of_one_round_whose_checkpoint_is_damaged_begins_anew(tmp_path, name, how):
    CheckpointStore(tmp_path).write(checkpoint(1, 0), files(0, 1, text="a model of some bytes"))
    damage(tmp_path / name, how)
    again = CheckpointStore(tmp_path)
    assert again.read() is None
    assert again.notes[-1].startswith("checkpoint-000001.json is left out: ")


def test_a_resumed_run_keeps_the_files_of_its_checkpoint(tmp_path):
    checkpoints = CheckpointStore(tmp_path)
    checkpoints.write(checkpoint(1, 1), files(0, 1))
    resumed = CheckpointStore(tmp_path)
    resumed.read()
    resumed.write(checkpoint(2, 1), files(2))
    assert CheckpointStore(tmp_path).read() == checkpoint(2, 1)


def test_a_full_disk_leaves_the_last_round_as_it_was(tmp_path):
    def fill(path: Path) -> None:
        path.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    checkpoints = CheckpointStore(tmp_path)
    checkpoints.write(checkpoint(1, 1), files(0, 1))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(EnvironmentProblem, match="error disk-full: No space left on device"):
        checkpoints.write(checkpoint(2, 1), {"model-2.safetensors": fill})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert checkpoints.read() == checkpoint(1, 1)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"run": "x"}', '{"records": [{}]}'])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "checkpoint-000002.json").write_text(content)
    with pytest.raises(Refused, match="bad-checkpoints"):
        CheckpointStore(tmp_path).read()
