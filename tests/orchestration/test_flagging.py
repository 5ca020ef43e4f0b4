import pytest

from consortium.orchestration.flagging import find_flagged
from consortium.orchestration.records import Refusal, RoundRecord


def record(number, *, kept=1.0, distance=1.0, refused=False, answered=True):
    """A round in which east behaves as given and north like the others."""
    treatment = {"north": {"kept": 1.0, "distance": 1.0}}
    if answered:
        treatment["east"] = {"kept": kept, "distance": distance}
    return RoundRecord(
        round=number,
        base_sha256="a",
        asked=["east", "north"],
        answered=["east", "north"] if answered else ["north"],
        refused=[Refusal("east", "w", "too-large")] if refused else [],
        treatment=treatment,
        result_sha256="b",
    )


def test_a_hospital_held_back_in_half_of_its_rounds_is_flagged_with_its_worst_numbers():
    records = [record(k, kept=0.1 if k % 2 else 0.9, distance=1 + k) for k in range(6)]
    [flagged] = find_flagged(records)
    assert (flagged.hospital, flagged.rounds, flagged.refused) == ("east", 6, 0)
    assert (flagged.held_back, flagged.kept, flagged.distance) == (4, 0.1, 6)


@pytest.mark.parametrize("rule_knows", [{"kept": None}, {"kept": 1.0}])
def test_distance_alone_is_enough(rule_knows):
    [flagged] = find_flagged([record(k, distance=9.0, **rule_knows) for k in range(3)])
    assert (flagged.held_back, flagged.distance) == (3, 9.0)


def test_refusals_count_unless_the_hospital_answered_later_and_silence_does_not():
    away = [record(k, answered=False) for k in range(9)]
    assert find_flagged(away) == []
    good = [record(k, refused=True) for k in range(9)]
    assert find_flagged(good) == []
    bad = [record(k, refused=True, answered=False) for k in range(3)]
    [flagged] = find_flagged(away + bad)
    assert (flagged.rounds, flagged.refused, flagged.held_back, flagged.kept) == (3, 3, 0, None)


def test_a_hospital_that_is_held_back_now_and_then_is_not_flagged():
    records = [record(k, kept=0.1 if k < 3 else 1.0) for k in range(10)]
    assert find_flagged(records) == []
    assert find_flagged([record(0, kept=0.1), *(record(k) for k in range(1, 3))]) == []


def test_rules_that_inspect_no_single_update_flag_nobody():
    assert find_flagged([record(k, answered=False) for k in range(3)]) == []


def series(**values):
    """Scores of the models in order, by hospital."""
    return [dict(zip(values, model, strict=True)) for model in zip(*values.values(), strict=True)]


RISING = [0.1, 0.4, 0.6, 0.7, 0.8]


def test_a_hospital_whose_score_falls_for_good_while_the_others_rise_is_flagged():
    scores = series(east=[1.0, 0.7, 0.7, 0.7, 0.7], north=RISING, west=RISING)
    [flagged] = find_flagged([], scores)
    assert (flagged.hospital, flagged.parted, flagged.rounds, flagged.refused) == ("east", 4, 0, 0)
    fallen = [1 - value for value in RISING]
    [flagged] = find_flagged([], series(east=RISING, north=fallen, west=fallen))
    assert flagged.hospital == "east"


def test_of_two_hospitals_that_part_both_are_flagged():
    scores = series(east=[1.0, 0.7, 0.7, 0.7, 0.7], north=RISING)
    assert [flagged.hospital for flagged in find_flagged([], scores)] == ["east", "north"]


@pytest.mark.parametrize(
    "own",
    [
        [0.3, 0.2, 0.2, 0.4, 0.5],  # recovers
        [0.30, 0.29, 0.28, 0.27, 0.26],  # hardly moves
        [0.9, 0.95, 0.95, 0.95, 0.95],  # high from the start
        [0.5, 0.6, 0.6, 0.6, 0.4],  # falls once
    ],
)
def test_a_score_that_does_not_part_for_good_is_not_flagged(own):
    assert find_flagged([], series(east=own, north=RISING, west=RISING)) == []


def test_a_hospital_that_scores_nothing_or_alone_is_not_flagged():
    assert find_flagged([record(0)], [{}, {"east": 0.9}, {"east": 0.1}, {"north": 0.2}]) == []
