"""Rounds in every order of events."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from consortium.core.errors import UsageError
from consortium.orchestration.quorum import Quorum, declare_quorum
from consortium.orchestration.rounds import (
    NOT_CONNECTED,
    Ask,
    Close,
    Rounds,
    Stop,
    Timer,
    choose,
)

NAMES = ("fen", "harbour", "north", "valley")


def quorum(minimum=4, mandatory=(), **more):
    declared = {"reconnect_timeout": 0, **more}
    return Quorum(hospitals=NAMES, minimum=minimum, mandatory=mandatory, **declared)


def timers(actions):
    return [action.seconds for action in actions if isinstance(action, Timer)]


def number_of(actions):
    [timer] = [action for action in actions if isinstance(action, Timer)]
    return timer.number


def test_a_run_in_which_everybody_answers():
    rounds = Rounds(declare_quorum(NAMES, {}), 2, seed=0)
    assert rounds.begin() == [Ask(0, NAMES)]
    assert timers(rounds.answered(0, "fen", 2.0)) == [18.0]
    assert rounds.answered(0, "north", 3.0) == []
    assert rounds.answered(0, "valley", 4.0) == []
    assert rounds.answered(0, "harbour", 1.0) == [Close(0, ())]
    begun = rounds.closed()
    assert begun[0] == Ask(1, NAMES)
    assert timers(begun) == [40.0]
    for name in NAMES[:3]:
        assert rounds.answered(1, name, 1.0) == []
    assert rounds.answered(1, "valley", 1.0) == [Close(1, ())]
    assert rounds.closed() == [Stop()]


def test_a_declared_deadline_closes_a_round_that_has_its_quorum():
    rounds = Rounds(quorum(2, ("fen",), deadline=60), 1, seed=0)
    begun = rounds.begin()
    assert timers(begun) == [60.0]
    rounds.answered(0, "north", 1.0)
    rounds.answered(0, "fen", 1.0)
    assert rounds.time_up(number_of(begun)) == [Close(0, ("harbour", "valley"))]
    assert rounds.answered(0, "valley", 70.0) == []
    assert rounds.closed() == [Stop()]


def test_a_round_without_its_quorum_is_asked_again_and_then_stops_with_a_reason():
    rounds = Rounds(quorum(2, ("fen",), deadline=60, retry_delay=5, max_attempts=2), 1, seed=0)
    begun = rounds.begin()
    rounds.answered(0, "north", 1.0)
    rounds.answered(0, "valley", 1.0)
    rounds.failed(0, "fen", "out-of-memory")
    again = rounds.time_up(number_of(begun))
    assert again[0] == Ask(0, ("fen",))  # harbour has been asked, and is still waited for
    assert timers(again) == [60.0]
    rounds.failed(0, "fen", "out-of-memory")
    assert rounds.time_up(number_of(again)) == [
        Stop(
            "round 1 was asked for 2 times, 2 of 4 hospitals must answer, fen among"
            " them: fen (out-of-memory), harbour (no answer)"
        )
    ]


def test_a_silent_hospital_is_awaited_until_the_reconnect_timeout():
    rounds = Rounds(quorum(4, deadline=60, max_attempts=2, reconnect_timeout=300), 1, seed=0)
    actions = rounds.begin()
    for name in NAMES[:3]:
        rounds.answered(0, name, 1.0)
    for _ in range(4):
        actions = rounds.time_up(number_of(actions))
        assert timers(actions) == [60.0]
        assert len(actions) == 1  # valley has been asked, and is still waited for
    [stop] = rounds.time_up(number_of(actions))
    assert stop.reason.endswith("valley (no answer)")


def test_a_hospital_that_is_not_connected_is_asked_until_it_is_and_one_that_fails_is_not():
    rounds = Rounds(
        quorum(4, deadline=60, retry_delay=5, max_attempts=2, reconnect_timeout=300), 1, seed=0
    )
    rounds.begin()
    for name in NAMES[:2]:
        rounds.answered(0, name, 1.0)
    rounds.failed(0, "north", "out-of-memory")
    actions = rounds.failed(0, "valley", NOT_CONNECTED)
    asked = []
    for _ in range(8):
        actions = rounds.time_up(number_of(actions))
        asked.append(actions[0].hospitals)
        for name in actions[0].hospitals:
            actions = rounds.failed(0, name, NOT_CONNECTED if name == "valley" else "crash")
    assert asked == [("north", "valley"), *[("valley",)] * 7]
    again = rounds.time_up(number_of(actions))
    assert again[0] == Ask(0, ("valley",))
    [stop] = rounds.answered(0, "valley", 1.0)
    assert stop.reason.endswith("north (crash)")


def test_after_all_answers_or_failures_it_waits_before_it_asks_again():
    rounds = Rounds(quorum(4, retry_delay=5), 1, seed=0)
    rounds.begin()
    for name in NAMES[:3]:
        rounds.answered(0, name, 1.0)
    waiting = rounds.failed(0, "valley", "not-finite")
    assert timers(waiting) == [5.0]
    again = rounds.time_up(number_of(waiting))
    assert again[0] == Ask(0, ("valley",))
    assert rounds.answered(0, "valley", 1.0) == [Close(0, ())]


def test_a_timer_runs_out_once_and_none_is_set_before_the_first_answer():
    rounds = Rounds(quorum(4, retry_delay=5), 1, seed=0)
    assert timers(rounds.begin()) == []
    for name in NAMES[:3]:
        assert timers(rounds.failed(0, name, "missing-folder")) == []
    waiting = rounds.failed(0, "valley", "missing-folder")
    assert rounds.time_up(number_of(waiting)) == [Ask(0, NAMES)]
    assert rounds.time_up(number_of(waiting)) == []


def test_a_round_with_its_quorum_closes_despite_a_refusal():
    rounds = Rounds(quorum(3), 1, seed=0)
    rounds.begin()
    rounds.failed(0, "valley", "not-finite")
    for name in NAMES[:2]:
        rounds.answered(0, name, 1.0)
    assert rounds.answered(0, "north", 1.0) == [Close(0, ("valley",))]


def test_an_old_timer_does_nothing():
    rounds = Rounds(quorum(1, deadline=60), 2, seed=0)
    first = number_of(rounds.begin())
    rounds.answered(0, "fen", 1.0)
    assert rounds.time_up(first) == [Close(0, ("harbour", "north", "valley"))]
    rounds.closed()
    rounds.answered(1, "fen", 1.0)
    assert rounds.time_up(first) == []


def test_a_run_that_is_continued_starts_at_its_next_round_and_one_that_is_done_stops():
    assert Rounds(declare_quorum(NAMES, {}), 3, seed=0, done=2).begin() == [Ask(2, NAMES)]
    assert Rounds(declare_quorum(NAMES, {}), 3, seed=0, done=3).begin() == [Stop()]
    rounds = Rounds(declare_quorum(["fen"], {}), 3, seed=0)
    rounds.begin()
    rounds.answered(0, "fen", 1.0)
    assert rounds.closed(stop=True) == [Stop()]


def test_a_seeded_choice_contains_the_mandatory_hospitals_and_over_time_all():
    chosen = [choose(quorum(2, ("north",), clients_per_round=2), 7, number) for number in range(40)]
    assert chosen == [
        choose(quorum(2, ("north",), clients_per_round=2), 7, number) for number in range(40)
    ]
    assert all(len(names) == 2 and "north" in names for names in chosen)
    assert {name for names in chosen for name in names} == set(NAMES)
    assert choose(quorum(), 7, 0) == NAMES


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"minimum": 5}, "only 4 hospitals are asked"),
        ({"minimum": 3, "clients_per_round": 2}, "only 2 hospitals are asked"),
        ({"mandatory": ("fens",)}, "fens does not take part"),
        (
            {"mandatory": ("fen", "north"), "clients_per_round": 1, "minimum": 1},
            "only 1 hospital is asked",
        ),
        ({"clients_per_round": 5}, "the study has 4 hospitals"),
        ({"hospitals": ("north", "fen"), "minimum": 1}, "sorted, each once"),
        ({"deadline": 0}, "greater than 0"),
    ],
)
def test_a_quorum_that_cannot_be_met_is_refused(declared, message):
    with pytest.raises(ValidationError, match=message):
        Quorum(**{"hospitals": NAMES, "minimum": 1, **declared})


def test_the_declared_quorum_is_checked():
    assert declare_quorum(["north", "fen"], {}) == Quorum(hospitals=("fen", "north"), minimum=2)
    assert declare_quorum(NAMES, {}).needed == NAMES
    assert declare_quorum(NAMES, {"clients_per_round": 2}).minimum == 2
    assert declare_quorum(NAMES, {"minimum": 3, "mandatory": ["fen"]}).needed == ("fen",)
    with pytest.raises(
        UsageError, match=r"bad-quorum: quorum\.minimum: Input should be .*, --quorum"
    ):
        declare_quorum(NAMES, {"minimum": "few"}, "--quorum")
    with pytest.raises(UsageError, match=r"bad-quorum: quorum\.deadlines: Extra inputs"):
        declare_quorum(NAMES, {"deadlines": 3})


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("answered"), st.integers(-1, 1), st.sampled_from((*NAMES, "stranger"))),
        st.tuples(st.just("failed"), st.integers(-1, 1), st.sampled_from(NAMES)),
        st.tuples(st.just("time up"), st.integers(-1, 0), st.just("")),
    ),
    max_size=60,
)


@given(
    EVENTS,
    st.integers(1, 4),
    st.sets(st.sampled_from(NAMES)),
    st.sampled_from([None, 10.0]),
    st.integers(1, 3),
)
def test_in_every_order_no_round_is_closed_without_its_quorum(
    events, minimum, mandatory, deadline, attempts
):
    declared = quorum(minimum, tuple(sorted(mandatory)), deadline=deadline, max_attempts=attempts)
    rounds = Rounds(declared, 3, seed=0)
    number, answered, stopped, asked, last_timer = 0, set(), False, 0, 0

    def follow(actions):
        nonlocal number, answered, stopped, asked, last_timer
        assert not (stopped and actions), "a run that has stopped does nothing more"
        for action in actions:
            match action:
                case Ask(at, names):
                    asked = asked + 1 if at == number else 1
                    assert at == number
                    assert names
                    assert not answered & set(names)
                case Timer(timer, seconds):
                    assert timer > last_timer
                    assert seconds >= 0
                    last_timer = timer
                case Close(at, missing):
                    assert at == number
                    assert len(answered) >= minimum
                    assert mandatory <= answered
                    assert set(missing) == set(NAMES) - answered
                    number, answered, asked = number + 1, set(), 0
                    follow(rounds.closed())
                case Stop(reason):
                    stopped = True
                    assert (reason == "") == (number == 3)
        assert asked <= attempts

    follow(rounds.begin())
    for what, offset, name in events:
        at = number + offset
        if what == "answered":
            if at == number and name in NAMES and not stopped:
                answered.add(name)
            follow(rounds.answered(at, name, 1.0))
        elif what == "failed":
            follow(rounds.failed(at, name, "code"))
        else:
            follow(rounds.time_up(last_timer + offset))


@pytest.mark.parametrize("clients_per_round", [None, 2])
def test_a_study_without_a_hospital_needs_no_more_than_the_others(clients_per_round):
    declared = {"mandatory": ["a", "b"], "clients_per_round": clients_per_round}
    quorum = declare_quorum("abc", declared).without("b")
    assert quorum.hospitals == ("a", "c")
    assert (quorum.minimum, quorum.mandatory, quorum.clients_per_round) == (
        2,
        ("a",),
        clients_per_round,
    )
    assert Quorum.model_validate(quorum.model_dump()) == quorum
