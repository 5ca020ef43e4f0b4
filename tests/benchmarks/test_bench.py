"""The output of benchmarks; no test here asserts a time."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import pytest
from scripts.benchmarks import __main__ as bench
from scripts.benchmarks import round_parts
from scripts.benchmarks.report import LEAST, describe_machine, make_row, without_claims
from scripts.benchmarks.round import read_parts
from scripts.benchmarks.round_jobs import Size
from tests.conftest import ROOT

from consortium.cli.run import run_app

FIELDS = {"case", "value", "unit", "n", "spread", "target", "met"}
MANY = [5.0, 1.0, 2.0, 4.0, 3.0]


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Runs the command with benchmarks that return fixed rows."""
    slow = make_row("slow", MANY, "ms", target=2.5)
    fast = make_row("fast", MANY, "ms", target=3.0)
    known = {"slow": lambda quick: [fast, slow], "fast": lambda quick: [fast]}
    monkeypatch.setattr(bench, "BENCHMARKS", known)
    monkeypatch.setattr(bench, "TABLES", {})
    monkeypatch.setattr(bench, "SCORES", {})

    def end(*arguments):
        file = tmp_path / "rows.json"
        with pytest.raises(SystemExit) as ended:
            run_app(bench.app, [*arguments, "--json", str(file)])
        out, err = capsys.readouterr()
        written = json.loads(file.read_text()) if file.exists() else None
        return ended.value.code, out, err, written

    return end


def test_a_row_is_a_median_with_its_quartiles():
    row = make_row("case", MANY, "ms", target=3.0)
    assert (row.value, row.spread, row.n, row.met) == (3.0, (2.0, 4.0), 5, True)
    alone = make_row("case", [7.0], "ms")
    assert (alone.value, alone.spread, alone.target, alone.met) == (7.0, (7.0, 7.0), None, None)


def test_few_measurements_have_no_target():
    with pytest.raises(ValueError, match="4 measurements are too few"):
        make_row("case", MANY[1:], "ms", target=9.0)
    assert LEAST == 5


def test_targets_met_end_with_0(run):
    code, out, err, written = run("fast")
    assert (code, err) == (0, "")
    assert "fast" in out
    assert set(written) == {"benchmark", "machine", "rows"}
    assert written["benchmark"] == "fast"
    assert written["rows"] == [
        {
            "case": "fast",
            "value": 3.0,
            "unit": "ms",
            "n": 5,
            "spread": [2.0, 4.0],
            "target": 3.0,
            "met": True,
        }
    ]


def test_a_missed_target_ends_with_1_and_is_named_and_written(run):
    code, out, err, written = run("slow")
    assert code == 1
    assert err.startswith("error target-missed: slow: 3.000 ms, target 2.500, slow, ")
    assert err.count("\n") == 1
    assert [row["met"] for row in written["rows"]] == [True, False]
    assert "NO" in out


def test_a_quick_run_has_no_targets(run):
    code, _, err, written = run("slow", "--quick")
    assert (code, err) == (0, "")
    assert [(row["target"], row["met"]) for row in written["rows"]] == [(None, None)] * 2
    assert [row.value for row in without_claims([make_row("case", MANY, "ms")])] == [3.0]


def test_an_unknown_name_ends_with_2(run):
    code, out, err, written = run("speed")
    assert (code, out, written) == (2, "", None)
    error = "error unknown-benchmark: there is no such benchmark, speed, "
    assert err == f"{error}name chaos or fast or slow\n"


def test_the_machine_is_described_without_names_and_paths():
    description = describe_machine()
    assert " cores, load " in description
    assert ", torch " in description
    assert "/" not in description


def test_a_round_lasts_until_the_next_begins(tmp_path):
    def note(who, what, number, *moments):
        round_parts.note(str(tmp_path), who, what, number, *moments)

    started, accepted, seen, done = round_parts.EVENTS
    for number, begin in ((0, 0.0), (1, 10.0), (2, 20.0)):
        note("server", started, number, begin)
        note("north", "trained", number, begin + 1, begin + 4)
        note("valley", "trained", number, begin + 2, begin + 4.5)
        note("server", accepted, number, begin + 6)
        note("server", accepted, number, begin + 5)
        note("server", seen, number, begin + 7)
        note("server", done, number, begin + 9)
    size = Size(hospitals=2, turns=1, rounds=1, seconds=3, features=[4, 8])
    [parts] = read_parts(tmp_path, size)
    assert (parts.added, parts.out, parts.back) == (7, 2, 1.5)
    assert (parts.seen, parts.close, parts.rest) == (1, 2, 1)
    with pytest.raises(KeyError):
        read_parts(tmp_path, replace(size, rounds=2))
    with pytest.raises(ValueError, match="2 hospitals trained in round 1"):
        read_parts(tmp_path, replace(size, hospitals=3))


def starts_flare(*values):
    return pytest.param(*values, marks=pytest.mark.flare)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("training", 7),
        starts_flare("provisioning", 6),
        starts_flare("scale", 6),
        ("aggregation", 9),
        ("robust", 7),
        starts_flare("large", 8),
        ("probe", 13),
        ("gate", 5),
    ],
)
def test_a_quick_run_measures_and_writes_its_rows(name, rows, tmp_path, monkeypatch, capfd):
    file = tmp_path / "rows.json"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run_app(bench.app, [name, "--quick", "--json", str(file)])
    assert ended.value.code == 0, capfd.readouterr().err
    check_rows(file, name, rows)


@pytest.mark.flare
def test_a_quick_run_by_the_script_measures_and_writes_its_rows(tmp_path):
    file = tmp_path / "rows.json"
    subprocess.run(
        [ROOT / "scripts" / "bench", "round", "--quick", "--json", file],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    check_rows(file, "round", 13)


def check_rows(file, name, rows):
    written = json.loads(file.read_text())
    assert written["benchmark"] == name
    assert len(written["rows"]) == rows
    for row in written["rows"]:
        assert set(row) == FIELDS
        assert math.isfinite(row["value"])
        assert row["n"] >= 1
        assert len(row["spread"]) == 2
        assert (row["target"], row["met"]) == (None, None)


HEAVY = (
    "import sys, scripts.benchmarks.__main__; print({'torch', 'monai', 'nvflare'} & {*sys.modules})"
)


def test_a_benchmark_is_imported_only_when_it_runs():
    assert subprocess.check_output([sys.executable, "-c", HEAVY], text=True) == "set()\n"


def test_every_benchmark_exists():
    from importlib import import_module

    for name in [*bench.BENCHMARKS, "chaos"]:
        assert callable(import_module(f"scripts.benchmarks.{name}").measure)
    for name in [*bench.TABLES, *bench.SCORES]:
        assert callable(import_module(f"scripts.benchmarks.{name}").run)
    assert callable(import_module("scripts.benchmarks.round").measure_provisioned)
