"""The tensors that a hospital stores between rounds, and how it handles a damaged file."""

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


def value_of(store, before):
    loaded = store.load(before)
    return int(loaded["count"]) if loaded else None


def test_a_round_starts_from_what_the_round_before_it_left_also_when_it_is_asked_for_again(folder):
    store = LocalStateStore(folder)
    assert store.load(0) == {}
    for number in range(4):
        assert value_of(store, number) == (number - 1 if number else None)
        store.save(number, tensors(number))
        assert value_of(store, number) == (number - 1 if number else None)
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
def test_a_damaged_file_is_reported_and_the_one_before_it_is_used(folder, damage):
    store = LocalStateStore(folder)
    store.save(0, tensors(0))
    store.save(1, tensors(1))
    damage(folder / "kept-000001.safetensors")
    assert value_of(store, 2) == 0
    log = (folder / ERRORS).read_text()
    assert "error torn-file: the file is damaged; the one of the round before it is used" in log
    assert "kept-000001.safetensors" in log


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
