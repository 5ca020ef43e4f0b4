"""What a hospital keeps between rounds, and what it makes of a damaged file."""

import os

import pytest
import torch

from consortium.client.local_state import LocalStateStore
from consortium.core.site_policy import ERRORS


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def tensors(value):
    return {"mean": torch.full((3,), float(value)), "count": torch.tensor(value)}


def value_of(kept, before):
    found = kept.load(before)
    return int(found["count"]) if found else None


def test_a_round_starts_from_what_the_round_before_it_left_also_when_it_is_asked_for_again(folder):
    kept = LocalStateStore(folder)
    assert kept.load(0) == {}
    for number in range(4):
        assert value_of(kept, number) == (number - 1 if number else None)
        kept.save(number, tensors(number))
        assert value_of(kept, number) == (number - 1 if number else None)
    assert sorted(path.name for path in folder.iterdir()) == [
        "kept-000002.safetensors",
        "kept-000003.safetensors",
    ]


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-4])


def flip_a_bit(path):
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)


@pytest.mark.parametrize("damage", [cut_short, flip_a_bit])
def test_a_damaged_file_is_left_out_for_the_round_before_it_and_it_is_said(folder, damage):
    kept = LocalStateStore(folder)
    kept.save(0, tensors(0))
    kept.save(1, tensors(1))
    damage(folder / "kept-000001.safetensors")
    assert value_of(kept, 2) == 0
    told = (folder / ERRORS).read_text()
    assert "error torn-file: it is not as it was written, and is left out" in told
    assert "kept-000001.safetensors" in told


def test_old_runs_keep_nothing_but_their_logs_and_models(tmp_path):
    for number in range(5):
        folder = tmp_path / f"run-{number}"
        folder.mkdir()
        (folder / "local.safetensors").touch()
        LocalStateStore(folder, runs=2).save(0, tensors(0))
        os.utime(folder, (number, number))
    left = sorted(path.parent.name for path in tmp_path.glob("*/kept-*"))
    assert left == ["run-2", "run-3", "run-4"]
    assert len(list(tmp_path.glob("*/local.safetensors"))) == 5
