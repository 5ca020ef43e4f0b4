"""The published benchmark on tables: what does not need the data."""

import json

import numpy as np
import pytest
from scripts.benchmarks import heart
from tests.conftest import REAL

from consortium.data.table import read_table, split_table

needs_tables = pytest.mark.skipif(
    not (REAL / "heart_disease").is_dir(), reason=f"{REAL}/heart_disease is not there"
)


def test_every_strategy_is_held_against_every_hospital():
    split = json.loads(heart._SPLIT.read_text())
    assert heart.PUBLISHED.keys() == heart.STRATEGIES.keys()
    assert all(len(said) == len(split) for said in heart.PUBLISHED.values())
    assert [len(test) for test in split.values()] == [104, 89, 16, 45]


def test_it_starts_from_the_weights_of_the_published_one_in_our_order(tmp_path):
    settings = heart._flamby(42, (), tmp_path, False)
    assert sorted(settings.data.inputs) == sorted(heart.INPUTS)
    assert settings.update.buffers == "local"
    assert settings.model.from_ == str(tmp_path / "start-42.safetensors")


@needs_tables
def test_the_hospitals_are_as_large_as_published(tmp_path):
    folders = heart.write_hospitals(tmp_path)
    settings = heart._flamby(42, (), tmp_path, False)
    sizes = {
        name: tuple(len(part) for part in split_table(read_table(folder), settings.data))
        for name, folder in folders.items()
    }
    assert sizes == {
        "cleveland": (199, 104),
        "hungarian": (172, 89),
        "switzerland": (30, 16),
        "va": (85, 45),
    }
    inner = heart._inner(folders, 0, tmp_path)
    assert set(inner) == {"cleveland", "hungarian", "va"}
    for name, folder in inner.items():
        tests = split_table(read_table(folders[name]), settings.data)[1].names
        assert not {*tests} & {row["patient"] for row in read_table(folder).rows}


@needs_tables
def test_one_seed_of_fedavg_is_the_published_one_at_the_largest_hospitals(tmp_path, monkeypatch):
    monkeypatch.setattr(heart, "STRATEGIES", {"FedAvg": ()})
    rows = heart.again(heart.write_hospitals(tmp_path / "data"), [42], tmp_path, False)
    found = np.array([row.accuracy for row in rows[:2]])
    published = np.array([row.published for row in rows[:2]])
    assert (np.abs(found - published[:, 0]) < 3 * published[:, 1]).all()
