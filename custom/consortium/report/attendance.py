"""Which hospitals took part in each round: a grid, and a list of what was left out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

STATES = {
    "answered": "in the aggregate",
    "refused": "refused",
    "late": "too late",
    "failed": "failed",
    "lost": "no answer",
}
"""A hospital's possible states in a round, with their text."""

MOST_CELLS = 40
"""Largest number of rounds with a cell each; more rounds are drawn as a strip."""

_MOST_LETTERS = 120  # of a tensor's name: in a refused update it is arbitrary


@dataclass(frozen=True, slots=True)
class Attendance:
    """One hospital's attendance over all rounds.

    Attributes:
        hospital: its name.
        present: number of rounds whose aggregate includes it.
        states: its state in each round, a key of `STATES`.
        strips: for each state that occurs, an SVG path of one unit a round.
        absences: the rounds it missed, in words; empty if none.
    """

    hospital: str
    present: int
    states: list[str]
    strips: dict[str, str]
    absences: str


@dataclass(frozen=True, slots=True)
class Incident:
    """An update that no aggregate includes, in one or several rounds.

    Attributes:
        rounds: round numbers from 1, as ranges.
        hospital: the hospital that sent or owed it.
        state: a key of `STATES`.
        code: the reason.
        tensor: the first invalid tensor, or empty.
    """

    rounds: str
    hospital: str
    state: str
    code: str
    tensor: str


def list_attendance(
    hospitals: Sequence[str], rounds: Sequence[Mapping[str, Any]]
) -> list[Attendance]:
    """Lists the attendance of each hospital, one row of the grid each."""
    lines = []
    for hospital in hospitals:
        states = [_state(record, hospital)[0] for record in rounds]
        absent: dict[str, list[int]] = {}
        strips: dict[str, str] = {}
        start = 0
        for state, group in groupby(states):
            length = len(list(group))
            strips[state] = strips.get(state, "") + f"M{start} 0h{length}v1h-{length}z"
            if state != "answered":
                absent.setdefault(state, []).extend(range(start + 1, start + length + 1))
            start += length
        absences = "; ".join(
            f"{STATES[state]} in {'round' if len(numbers) == 1 else 'rounds'} {ranges(numbers)}"
            for state, numbers in absent.items()
        )
        lines.append(Attendance(hospital, states.count("answered"), states, strips, absences))
    return lines


def describe_incidents(rounds: Sequence[Mapping[str, Any]]) -> list[Incident]:
    """Lists what no aggregate includes; one entry for the same incident in several rounds."""
    incidents: dict[tuple[str, str, str, str], list[int]] = {}
    for record in rounds:
        tensors = {refusal["hospital"]: refusal["tensor"] for refusal in record["refused"]}
        entries = [
            (hospital, *_state(record, hospital), tensors.get(hospital, ""))
            for hospital in record["asked"]
            if hospital not in record["answered"]
        ]
        # A hospital in the aggregate may have sent a second update, which was refused.
        entries += [
            (refusal["hospital"], "refused", _count(refusal), "")
            for refusal in record["refused"]
            if refusal["hospital"] in record["answered"]
        ]
        for entry in entries:
            incidents.setdefault(entry, []).append(record["round"] + 1)
    return [
        Incident(ranges(numbers), hospital, state, code, _shorten(tensor))
        for (hospital, state, code, tensor), numbers in incidents.items()
    ]


def describe_flagged(hospital: Mapping[str, Any]) -> str:
    """Describes a flagged hospital in a sentence without its full stop."""
    parts = []
    if hospital["refused"]:
        parts.append(f"refused in {hospital['refused']}")
    if hospital["held_back"]:
        parts.append(f"held back in {hospital['held_back']}")
    sentence = f"{hospital['hospital']}"
    if parts:
        sentence += f" was {' and '.join(parts)} of {hospital['rounds']} rounds"
    if hospital["parted"]:
        sentence += " and its score" if parts else "'s score"
        sentence += f" moved against the others' over the last {hospital['parted']} models"
    details = []
    if hospital["held_back"] and hospital["kept"] is not None:
        details.append(f"its update counted for at least {hospital['kept']:.2g} of its weight")
    if hospital["held_back"] and hospital["distance"] is not None:
        times = f"{hospital['distance']:,.{0 if hospital['distance'] >= 10 else 1}f}"
        details.append(f"it was up to {times} times as far from the aggregate as others")
    return f"{sentence}: {' and '.join(details)}" if details else sentence


def ranges(numbers: Sequence[int]) -> str:
    """Formats ascending numbers as ranges: `2, 4\u20136`."""
    parts: list[str] = []
    for _, group in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        parts.append(f"{run[0]}" if len(run) == 1 else f"{run[0]}\u2013{run[-1]}")
    return ", ".join(parts)


def _state(record: Mapping[str, Any], hospital: str) -> tuple[str, str]:
    """A hospital's state in a round, and the code of a refusal or failure."""
    if hospital in record["answered"]:
        return "answered", ""
    if hospital in record["late"]:
        return "late", ""
    for refusal in record["refused"]:
        if refusal["hospital"] == hospital:
            return "refused", _count(refusal)
    if hospital in record["failures"]:
        return "failed", record["failures"][hospital]
    return "lost", ""


def _count(refusal: Mapping[str, Any]) -> str:
    times = refusal["times"]
    return refusal["code"] if times == 1 else f"{refusal['code']} \u00d7 {times:,}"


def _shorten(text: str) -> str:
    return text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}\u2026"
