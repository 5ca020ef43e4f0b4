"""Who took part in each round: a grid, and what was left out in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

STATES = {
    "answered": "in the aggregate",
    "refused": "refused",
    "late": "too late",
    "failed": "said it failed",
    "lost": "no answer",
}
"""What can become of a hospital in a round."""

MOST_CELLS = 40
"""Rounds up to which each has a cell of its own; more are drawn as a strip."""

_MOST_LETTERS = 120  # of a tensor's name, which in a refused update is anybody's


@dataclass(frozen=True, slots=True)
class Attendance:
    """One hospital's rounds.

    Attributes:
        hospital: its name.
        present: rounds whose aggregate it is in.
        states: of each round.
        strips: for each state that occurs, a path over a drawing one unit a round.
        told: the rounds it is not in, in words; empty where there is none.
    """

    hospital: str
    present: int
    states: list[str]
    strips: dict[str, str]
    told: str


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that was left out, in one or several rounds.

    Attributes:
        rounds: numbers from 1, as ranges.
        hospital: whose answer it was.
        state: a key of `STATES`.
        code: why.
        tensor: the first at fault, or empty.
    """

    rounds: str
    hospital: str
    state: str
    code: str
    tensor: str


def attend(hospitals: Sequence[str], rounds: Sequence[Mapping[str, Any]]) -> list[Attendance]:
    """The grid's lines, one a hospital."""
    lines = []
    for hospital in hospitals:
        states = [_state(record, hospital)[0] for record in rounds]
        absent: dict[str, list[int]] = {}
        strips: dict[str, str] = {}
        at = 0
        for state, group in groupby(states):
            length = len(list(group))
            strips[state] = strips.get(state, "") + f"M{at} 0h{length}v1h-{length}z"
            if state != "answered":
                absent.setdefault(state, []).extend(range(at + 1, at + length + 1))
            at += length
        told = "; ".join(
            f"{STATES[state]} in {'round' if len(numbers) == 1 else 'rounds'} {ranges(numbers)}"
            for state, numbers in absent.items()
        )
        lines.append(Attendance(hospital, states.count("answered"), states, strips, told))
    return lines


def describe_incidents(rounds: Sequence[Mapping[str, Any]]) -> list[Incident]:
    """All that was not in an aggregate; the same in several rounds is one line."""
    found: dict[tuple[str, str, str, str], list[int]] = {}
    for record in rounds:
        tensors = {refusal["hospital"]: refusal["tensor"] for refusal in record["refused"]}
        entries = [
            (hospital, *_state(record, hospital), tensors.get(hospital, ""))
            for hospital in record["asked"]
            if hospital not in record["answered"]
        ]
        # A hospital that is in the aggregate can have sent another update, which is not.
        entries += [
            (said["hospital"], "refused", said["code"], "")
            for said in record["refused"]
            if said["hospital"] in record["answered"]
        ]
        for entry in entries:
            found.setdefault(entry, []).append(record["round"] + 1)
    return [
        Incident(ranges(numbers), hospital, state, code, _shorten(tensor))
        for (hospital, state, code, tensor), numbers in found.items()
    ]


def describe_flagged(one: Mapping[str, Any]) -> str:
    """A hospital that was refused or held back round after round, in a sentence without its end."""
    parts = []
    if one["refused"]:
        parts.append(f"refused in {one['refused']}")
    if one["held_back"]:
        parts.append(f"held back in {one['held_back']}")
    told = f"{one['hospital']} was {' and '.join(parts)} of {one['rounds']} rounds"
    numbers = []
    if one["held_back"] and one["kept"] is not None:
        numbers.append(f"its change counted for {one['kept']:.2g} of its weight at least")
    if one["held_back"] and one["distance"] is not None:
        times = f"{one['distance']:,.{0 if one['distance'] >= 10 else 1}f}"
        numbers.append(f"it lay up to {times} times as far from the aggregate as others")
    return f"{told}: {' and '.join(numbers)}" if numbers else told


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as text: `2, 4\u20136`."""
    told: list[str] = []
    for _, group in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        told.append(f"{run[0]}" if len(run) == 1 else f"{run[0]}\u2013{run[-1]}")
    return ", ".join(told)


def _state(record: Mapping[str, Any], hospital: str) -> tuple[str, str]:
    """What became of a hospital in a round, and its code."""
    if hospital in record["answered"]:
        return "answered", ""
    if hospital in record["late"]:
        return "late", ""
    for refusal in record["refused"]:
        if refusal["hospital"] == hospital:
            return "refused", refusal["code"]
    if hospital in record["failures"]:
        return "failed", record["failures"][hospital]
    return "lost", ""


def _shorten(text: str) -> str:
    return text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}\u2026"
