"""The published benchmark on tables; most tests need no real data."""

import json

import numpy as np
import pytest
from scripts.benchmarks import heart
from scripts.benchmarks.__main__ import app
from tests.conftest import needs_real_data

from consortium.cli.run import run_app
from consortium.tasks.tabular.dataset import read_patients, split_table


def test_every_strategy_is_compared_at_every_hospital():
    split = json.loads(heart._SPLIT.read_text())
    assert heart.PUBLISHED.keys() == heart.STRATEGIES.keys()
    assert all(len(published) == len(split) for published in heart.PUBLISHED.values())
    assert [len(test) for test in split.values()] == [104, 89, 16, 45]


def test_it_starts_from_the_weights_of_the_published_one_in_our_order(tmp_path):
    settings = heart.flamby(42, (), tmp_path, False)
    assert sorted(settings.data.inputs) == sorted(heart.INPUTS)
    assert settings.update.buffers == "local"
    assert settings.model.from_ == str(tmp_path / "start-42.safetensors")


@needs_real_data
def test_the_hospitals_are_as_large_as_published(tmp_path):
    folders = heart.write_hospitals(tmp_path)
    settings = heart.flamby(42, (), tmp_path, False)
    sizes = {
        name: tuple(len(part) for part in split_table(read_patients(folder), settings.data))
        for name, folder in folders.items()
    }
    assert sizes == {
        "cleveland": (199, 104),
        "hungarian": (172, 89),
        "switzerland": (30, 16),
        "va": (85, 45),
    }
    inner = heart.inner_split(folders, 0, tmp_path)
    assert set(inner) == {"cleveland", "hungarian", "va"}
    for name, folder in inner.items():
        tests = split_table(read_patients(folders[name]), settings.data)[1].names
        assert not {*tests} & {row["patient"] for row in read_patients(folder).rows}


@needs_real_data
def test_one_seed_of_fedavg_is_the_published_one_at_the_largest_hospitals(tmp_path, monkeypatch):
    monkeypatch.setattr(heart, "STRATEGIES", {"FedAvg": ()})
    rows = heart.again(heart.write_hospitals(tmp_path / "data"), [42], tmp_path, False)
    measured = np.array([row.accuracy for row in rows[:2]])
    published = np.array([row.published for row in rows[:2]])
    assert (np.abs(measured - published[:, 0]) < 3 * published[:, 1]).all()


@pytest.mark.parametrize(
    ("met", "same", "code"), [(True, True, 0), (False, True, 1), (True, False, 1)]
)
def test_a_missed_target_is_reported_and_the_figures_are_written(
    tmp_path, monkeypatch, capsys, met, same, code
):
    row = heart.Row("FedAvg", "north", 60, 0.73, 0.02, (0.731, 0.019), met)
    figures = {"federated": {"north": 0.8, "all": 0.8}, "pooled": {"north": 0.75, "all": 0.75}}
    best = heart.Best("a=1", {"a=1": 0.5}, figures, {name: {} for name in figures}, 0.05, (0, 0.1))
    monkeypatch.setattr(heart, "write_hospitals", lambda out: {})
    monkeypatch.setattr(heart, "again", lambda *given: [row])
    monkeypatch.setattr(heart, "same_in_flare", lambda *given: same)
    monkeypatch.setattr(heart, "own_best", lambda *given: best)
    with pytest.raises(SystemExit) as ended:
        run_app(app, ["heart", "--json", str(tmp_path / "heart.json")])
    assert ended.value.code == code
    out, err = capsys.readouterr()
    assert "federated less centralised: +0.050 (+0.000 to +0.100)" in out
    assert ("error target-missed" in err) is bool(code)
    written = json.loads((tmp_path / "heart.json").read_text())
    assert (written["same"], written["rows"][0]["met"]) == (same, met)
