import pytest

from consortium.orchestration.flagging import find_flagged
from consortium.orchestration.records import Refusal, RoundRecord


def record(number, *, kept=1.0, distance=1.0, refused=False, answered=True):
    """A round in which east does as told and north is like others."""
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


def test_who_is_held_back_in_half_of_the_rounds_is_named_with_the_worst_numbers():
    records = [record(k, kept=0.1 if k % 2 else 0.9, distance=1 + k) for k in range(6)]
    [named] = find_flagged(records)
    assert (named.hospital, named.rounds, named.refused) == ("east", 6, 0)
    assert (named.held_back, named.kept, named.distance) == (4, 0.1, 6)


@pytest.mark.parametrize("rule_knows", [{"kept": None}, {"kept": 1.0}])
def test_distance_alone_is_enough(rule_knows):
    [named] = find_flagged([record(k, distance=9.0, **rule_knows) for k in range(3)])
    assert (named.held_back, named.distance) == (3, 9.0)


def test_refusals_count_but_not_those_that_were_made_good_or_no_answer_at_all():
    away = [record(k, answered=False) for k in range(9)]
    assert find_flagged(away) == []
    good = [record(k, refused=True) for k in range(9)]
    assert find_flagged(good) == []
    bad = [record(k, refused=True, answered=False) for k in range(3)]
    [named] = find_flagged(away + bad)
    assert (named.rounds, named.refused, named.held_back, named.kept) == (3, 3, 0, None)


def test_now_and_then_is_not_round_after_round():
    records = [record(k, kept=0.1 if k < 3 else 1.0) for k in range(10)]
    assert find_flagged(records) == []
    assert find_flagged([record(0, kept=0.1), *(record(k) for k in range(1, 3))]) == []


def test_rules_that_look_at_no_single_update_name_nobody():
    assert find_flagged([record(k, answered=False) for k in range(3)]) == []
