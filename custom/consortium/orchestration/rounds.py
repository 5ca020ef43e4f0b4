"""The rounds of a run as a state machine: it takes events and returns actions.

It has no clock, no network and no model. The caller (`consortium.flare.server.rounds`) carries out
the actions and reports the events that follow. For every order of events:

* a round is closed only with the answers of `minimum` hospitals and of every mandatory one;
* a hospital counts once a round, and its answer to a round that has ended changes nothing;
* a round that cannot be closed is attempted `max_attempts` times in all, and then the run stops
  with a reason that names the hospitals; if one of them is silent or not connected, the round also
  waits until `reconnect_timeout` seconds have passed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from consortium.core.plurals import plural
from consortium.core.seeds import derive_seed
from consortium.orchestration.quorum import Quorum

NOT_CONNECTED = "not-connected"
"""Code of a hospital that cannot be reached now, but may be later."""
_MIN_DELAY = 1.0  # seconds between two attempts to reach a hospital that is not connected


@dataclass(frozen=True, slots=True)
class Ask:
    """Send the open round's model to these hospitals, for the first time or again."""

    round: int
    hospitals: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Timer:
    """Call `time_up` with this number after these seconds; it replaces any earlier timer."""

    number: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Close:
    """Aggregate the round, then call `closed`; later updates of the missing hospitals are late."""

    round: int
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """End the run; `reason` is empty if all rounds are done."""

    reason: str = ""


Action = Ask | Timer | Close | Stop


@dataclass(slots=True)
class _Open:
    """An open round: the hospitals asked, answered, and failed since they were last asked."""

    asked: tuple[str, ...]
    answered: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    attempts: int = 1
    waited: float = 0.0

    @property
    def silent(self) -> list[str]:
        return [name for name in self.asked if name not in self.answered | self.failed.keys()]

    @property
    def out_of_reach(self) -> bool:
        return bool(self.silent) or NOT_CONNECTED in self.failed.values()


class Rounds:
    """Leads a run from round to round.

    Args:
        quorum: the study's quorum.
        rounds: number of rounds.
        seed: seed of the choice of hospitals, if a round does not ask all.
        done: number of rounds that are already closed, for a resumed run.
    """

    def __init__(self, quorum: Quorum, rounds: int, seed: int, done: int = 0):
        self._quorum, self._rounds, self._seed, self._done = quorum, rounds, seed, done
        self._open: _Open | None = None
        self._durations: dict[str, float] = {}
        self._timer, self._seconds = 0, 0.0

    def begin(self) -> list[Action]:
        """Opens the next round, or stops if all are done."""
        if self._done >= self._rounds:
            return self._stop()
        asked = choose(self._quorum, self._seed, self._done)
        self._open = _Open(asked)
        return [Ask(self._done, asked), *self._wait()]

    def answered(self, round_number: int, hospital: str, seconds: float) -> list[Action]:
        """Reports that a hospital's update was accepted.

        Args:
            round_number: the round of the update.
            hospital: the sender.
            seconds: time since the hospital was asked.
        """
        round_ = self._awaiting(round_number, hospital)
        if round_ is None:
            return []
        unknown = self._quorum.deadline is None and not self._durations
        self._durations[hospital] = seconds
        round_.failed.pop(hospital, None)
        round_.answered.add(hospital)
        settled = self._settle(round_)
        # Before the first answer it is not known how long to wait for the others.
        return settled or (self._wait(seconds) if unknown else [])

    def failed(self, round_number: int, hospital: str, code: str) -> list[Action]:
        """Reports that a hospital failed or its update was refused."""
        round_ = self._awaiting(round_number, hospital)
        if round_ is None or hospital in round_.failed:
            return []
        round_.failed[hospital] = code
        return self._settle(round_)

    def time_up(self, number: int) -> list[Action]:
        """Reports that a timer has run out."""
        round_ = self._open
        if round_ is None or number != self._timer:
            return []
        self._timer += 1  # a timer runs out once
        if self._enough(round_):
            return self._close(round_)
        round_.waited += self._seconds
        if self._gives_up(round_):
            return self._stop(self._why(round_))
        round_.attempts += 1
        exhausted = round_.attempts > self._quorum.max_attempts
        again = tuple(
            name
            for name in round_.asked
            if name in round_.failed and (not exhausted or round_.failed[name] == NOT_CONNECTED)
        )
        for name in again:
            del round_.failed[name]
        return [*([Ask(self._done, again)] if again else []), *self._wait()]

    def closed(self, stop: bool = False) -> list[Action]:
        """Reports that the round's aggregate is saved.

        Args:
            stop: whether the run ends early.
        """
        self._done += 1
        return self._stop() if stop else self.begin()

    def _awaiting(self, round_number: int, hospital: str) -> _Open | None:
        """Returns the open round if it still awaits this hospital's answer."""
        round_ = self._open
        if round_ is None or round_number != self._done:
            return None
        return round_ if hospital in round_.asked and hospital not in round_.answered else None

    def _settle(self, round_: _Open) -> list[Action]:
        if round_.silent:
            return []
        if self._enough(round_):
            return self._close(round_)
        if self._gives_up(round_):
            return self._stop(self._why(round_))
        return [self._set_timer(max(_MIN_DELAY, self._quorum.retry_delay))]

    def _gives_up(self, round_: _Open) -> bool:
        if round_.attempts < self._quorum.max_attempts:
            return False
        return not round_.out_of_reach or round_.waited >= self._quorum.reconnect_timeout

    def _enough(self, round_: _Open) -> bool:
        return (
            len(round_.answered) >= self._quorum.minimum
            and set(self._quorum.mandatory) <= round_.answered
        )

    def _close(self, round_: _Open) -> list[Action]:
        self._open = None
        self._timer += 1
        missing = tuple(name for name in round_.asked if name not in round_.answered)
        return [Close(self._done, missing)]

    def _stop(self, reason: str = "") -> list[Action]:
        self._open = None
        self._timer += 1
        return [Stop(reason)]

    def _wait(self, passed: float = 0.0) -> list[Action]:
        """Sets the timer of the open round; none while the duration of a round is unknown."""
        seconds = self._quorum.deadline
        if seconds is None and self._durations:
            seconds = self._quorum.deadline_factor * max(self._durations.values())
        return [] if seconds is None else [self._set_timer(max(0.0, seconds - passed))]

    def _set_timer(self, seconds: float) -> Timer:
        self._timer, self._seconds = self._timer + 1, seconds
        return Timer(self._timer, seconds)

    def _why(self, round_: _Open) -> str:
        wanted = [f"{self._quorum.minimum} of {len(round_.asked)} hospitals must answer"]
        if self._quorum.mandatory:
            wanted.append(f"{', '.join(self._quorum.mandatory)} among them")
        causes = _describe_codes({**dict.fromkeys(round_.silent, "no answer"), **round_.failed})
        attempts = plural(round_.attempts, "time")
        return f"round {self._done + 1} was asked for {attempts}, {', '.join(wanted)}: {causes}"


def choose(quorum: Quorum, seed: int, round_number: int) -> tuple[str, ...]:
    """Chooses the hospitals that are asked in a round: all, or a seeded sample.

    Args:
        quorum: the study's quorum.
        seed: seed of the run.
        round_number: number of the round, from 0.

    Returns:
        Names, sorted, with every mandatory hospital.
    """
    if quorum.clients_per_round is None:
        return quorum.hospitals
    free = [name for name in quorum.hospitals if name not in quorum.mandatory]
    generator = Random(derive_seed(seed, "hospitals", round_number))
    drawn = generator.sample(free, quorum.clients_per_round - len(quorum.mandatory))
    return tuple(sorted([*quorum.mandatory, *drawn]))


def _describe_codes(codes: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({code})" for name, code in sorted(codes.items()))
