"""The progress of a run without a terminal: one line for each round."""

import io

import pytest
from rich.console import Console

from consortium.cli.progress import RunProgress
from consortium.runs.base import View


@pytest.fixture
def watch(tiny, monkeypatch):
    """Shows the states, ten seconds apart; returns the printed lines."""
    now = iter(range(0, 10_000, 10))
    monkeypatch.setattr("consortium.cli.progress.time.monotonic", lambda: next(now))

    def watch(*states, settings=()):
        out = io.StringIO()
        with RunProgress(Console(file=out, width=200)) as progress:
            for records, hospitals in states:
                progress(View(tiny("rounds=4", *settings), records, hospitals))
        return out.getvalue().splitlines()

    return watch


def at(stage, round_number, step, steps=20):
    return {"stage": stage, "round": round_number, "step": step, "steps": steps}


def closed(number, answered=("east", "west"), score=0.5):
    return {
        "round": number,
        "asked": ["east", "west"],
        "answered": list(answered),
        "score": score,
    }


def both(state):
    return {"east": state, "west": state}


def test_a_round_is_shown_with_its_hospitals_its_score_and_the_time_left(watch):
    lines = watch(
        ([], {}),
        ([], both(at("train", 0, 0))),
        ([closed(0)], both(at("train", 1, 0))),
    )
    # One round in ten seconds, three to go.
    assert lines == ["round 1 of 4, 2 of 2 hospitals, Dice before it 0.500, about 0:30 left"]


def test_the_slowest_hospital_decides_the_time_left_also_while_it_scores(watch):
    lines = watch(
        ([], both(at("train", 0, 0))),
        ([], {"east": at("train", 1, 0), "west": at("train", 0, 10)}),
        ([closed(0)], {"east": at("train", 2, 0), "west": at("validate", 1, 3, 8)}),
    )
    # Half a round in twenty seconds, three and a half to go.
    assert lines == ["round 1 of 4, 2 of 2 hospitals, Dice before it 0.500, about 2:20 left"]


def test_a_missing_hospital_is_named(watch):
    lines = watch(([], {}), ([closed(0, ["east"], None)], {}))
    assert lines == ["round 1 of 4, 1 of 2 hospitals, without west"]


def test_the_baseline_is_shown_and_counts_as_much_as_the_rounds(watch):
    lines = watch(
        ([], both(at("train", 0, 0))),
        ([closed(k) for k in range(4)], both(at("local", 0, 0))),
        settings=["baseline=true"],
    )
    assert lines[-1] == "each hospital trains a local model, for comparison, about 0:10 left"


def test_a_resumed_run_says_where_it_goes_on(watch):
    lines = watch(([closed(0), closed(1)], {}), ([closed(k) for k in range(3)], {}))
    assert lines[0] == "going on after round 2 of 4"
    assert lines[1].startswith("round 3 of 4, ")
