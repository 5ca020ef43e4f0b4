"""The rounds of a run as a state machine: what happened goes in, what to do comes out.

No clock, no network, no model: whoever drives it (`consortium.flare.server.rounds`) does what the
actions say and tells it what came of that. What always holds, whatever the order of events:

* a round is closed only with the answers of `minimum` hospitals and of every mandatory one;
* a hospital counts once a round, and what it says after its round has ended changes nothing;
* a round that cannot be closed is asked for `max_attempts` times in all, and then the run stops
  with a reason that names the hospitals; where one of them is silent or not connected, it is waited
  for until `reconnect_timeout` seconds have passed too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from consortium.core.seeds import derive_seed
from consortium.orchestration.quorum import Quorum

NOT_CONNECTED = "not-connected"
"""Code of a hospital that cannot be asked now, and may be later."""
_LEAST = 1.0  # seconds between two looks at a hospital that is not connected


@dataclass(frozen=True, slots=True)
class Ask:
    """Hand out the open round's model to these hospitals, again or for the first time."""

    round: int
    hospitals: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Timer:
    """Call `time_up` with this number after so many seconds; any timer before it is forgotten."""

    number: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Close:
    """Aggregate what was taken, then call `closed`; what comes of these hospitals now is late."""

    round: int
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """End the run; `reason` is empty where all rounds are done."""

    reason: str = ""


Action = Ask | Timer | Close | Stop


@dataclass(slots=True)
class _Open:
    """A round that is open: who was asked, who answered, and who failed since it was asked."""

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
        quorum: what the study declares.
        rounds: how many there are.
        seed: of the choice of hospitals, where not all are asked each round.
        done: rounds that are closed already, of a run that is continued.
    """

    def __init__(self, quorum: Quorum, rounds: int, seed: int, done: int = 0):
        self._quorum, self._rounds, self._seed, self._done = quorum, rounds, seed, done
        self._open: _Open | None = None
        self._paces: dict[str, float] = {}
        self._timer, self._seconds = 0, 0.0

    def begin(self) -> list[Action]:
        """Opens the first round that is not done."""
        if self._done >= self._rounds:
            return self._stop()
        asked = choose(self._quorum, self._seed, self._done)
        self._open = _Open(asked)
        return [Ask(self._done, asked), *self._wait()]

    def answered(self, round_number: int, hospital: str, seconds: float) -> list[Action]:
        """A hospital's update was taken.

        Args:
            round_number: that it answers.
            hospital: who.
            seconds: since it was asked.
        """
        round_ = self._listens(round_number, hospital)
        if round_ is None:
            return []
        unknown = self._quorum.deadline is None and not self._paces
        self._paces[hospital] = seconds
        round_.failed.pop(hospital, None)
        round_.answered.add(hospital)
        settled = self._settle(round_)
        # Until somebody has answered, nobody knows how long to wait for the others.
        return settled or (self._wait(seconds) if unknown else [])

    def failed(self, round_number: int, hospital: str, code: str) -> list[Action]:
        """A hospital said that it cannot answer, or its update was refused."""
        round_ = self._listens(round_number, hospital)
        if round_ is None or hospital in round_.failed:
            return []
        round_.failed[hospital] = code
        return self._settle(round_)

    def time_up(self, number: int) -> list[Action]:
        """A timer has run out."""
        round_ = self._open
        if round_ is None or number != self._timer:
            return []
        self._timer += 1  # it runs out once
        if self._enough(round_):
            return self._close(round_)
        round_.waited += self._seconds
        if self._gives_up(round_):
            return self._stop(self._why(round_))
        round_.attempts += 1
        tired = round_.attempts > self._quorum.max_attempts
        again = tuple(
            name
            for name in round_.asked
            if name in round_.failed and (not tired or round_.failed[name] == NOT_CONNECTED)
        )
        for name in again:
            del round_.failed[name]
        return [*([Ask(self._done, again)] if again else []), *self._wait()]

    def closed(self, stop: bool = False) -> list[Action]:
        """The round's aggregate is saved.

        Args:
            stop: whether the run has what it wants and ends here.
        """
        self._done += 1
        return self._stop() if stop else self.begin()

    def _listens(self, round_number: int, hospital: str) -> _Open | None:
        """The open round, where this hospital was asked and has not answered."""
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
        return [self._set_timer(max(_LEAST, self._quorum.retry_delay))]

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
        """The timer of the open round; none while nothing tells how long a round takes."""
        seconds = self._quorum.deadline
        if seconds is None and self._paces:
            seconds = self._quorum.deadline_factor * max(self._paces.values())
        return [] if seconds is None else [self._set_timer(max(0.0, seconds - passed))]

    def _set_timer(self, seconds: float) -> Timer:
        self._timer, self._seconds = self._timer + 1, seconds
        return Timer(self._timer, seconds)

    def _why(self, round_: _Open) -> str:
        wanted = [f"{self._quorum.minimum} of {len(round_.asked)} hospitals must answer"]
        if self._quorum.mandatory:
            wanted.append(f"{', '.join(self._quorum.mandatory)} among them")
        told = _words({**dict.fromkeys(round_.silent, "no answer"), **round_.failed})
        tries = f"{round_.attempts} time" + ("" if round_.attempts == 1 else "s")
        return f"round {self._done + 1} was asked for {tries}, {', '.join(wanted)}: {told}"


def choose(quorum: Quorum, seed: int, round_number: int) -> tuple[str, ...]:
    """The hospitals that are asked in a round, sorted: all, or a seeded choice with the mandatory.

    Args:
        quorum: what the study declares.
        seed: of the run.
        round_number: from 0.
    """
    if quorum.clients_per_round is None:
        return quorum.hospitals
    free = [name for name in quorum.hospitals if name not in quorum.mandatory]
    draw = Random(derive_seed(seed, "hospitals", round_number))
    drawn = draw.sample(free, quorum.clients_per_round - len(quorum.mandatory))
    return tuple(sorted([*quorum.mandatory, *drawn]))


def _words(codes: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({code})" for name, code in sorted(codes.items()))
