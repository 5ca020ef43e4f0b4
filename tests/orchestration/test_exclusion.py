import pytest

from consortium.orchestration.exclusion import excluded_hospitals
from consortium.orchestration.quorum import declare_quorum
from consortium.orchestration.records import Refusal, RoundRecord

NAMES = ["east", "north", "west"]


def record(number, refused=(), code="not-finite", answered=True):
    return RoundRecord(
        round=number,
        base_sha256="a",
        asked=NAMES,
        answered=[name for name in NAMES if name not in refused and answered],
        refused=[Refusal(name, "", code) for name in refused],
        result_sha256="b",
    )


def excluded(records, **declared):
    return excluded_hospitals(records, declare_quorum(NAMES, declared))


def test_a_hospital_that_is_refused_max_attempts_times_in_a_row_is_left_out_for_good():
    records = [record(k, ["west"]) for k in range(3)]
    assert excluded(records[:2], minimum=2) == ()
    assert excluded(records, minimum=2) == ("west",)
    assert excluded([*records, record(3, ["west"], "left-out")], minimum=2) == ("west",)
    assert excluded(records[:2], minimum=2, max_attempts=2) == ("west",)


def test_an_accepted_update_forgives_and_a_late_one_or_a_silent_round_is_no_refusal():
    sometimes = [record(k, ["west"] if k % 3 else []) for k in range(12)]
    assert excluded(sometimes, minimum=2) == ()
    late = [record(k, ["west"], "late") for k in range(9)]
    assert excluded(late, minimum=2) == ()
    silent = [record(k, answered=False) for k in range(9)]
    assert excluded(silent, minimum=2) == ()


@pytest.mark.parametrize("declared", [{}, {"minimum": 2, "mandatory": ["west"]}])
def test_the_quorum_keeps_a_hospital_that_it_needs(declared):
    assert excluded([record(k, ["west"]) for k in range(9)], **declared) == ()


def test_no_more_hospitals_are_left_out_than_the_quorum_does_without():
    records = [record(k, ["east", "west"]) for k in range(4)]
    assert excluded(records, minimum=2) == ("east",)
    quorum = declare_quorum(NAMES, {"minimum": 2})
    assert excluded_hospitals(records, quorum, ("north",)) == ("north",)
