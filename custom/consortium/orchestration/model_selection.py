"""Decides which model of a run is kept and when a run stops early.

Model k is sent to the hospitals in round k. Model 0 is the start of the run; the last aggregate is
scored by a separate request after the last round. Two models are compared on the hospitals that
scored both, so a hospital that drops out cannot decide which model is kept.

Nor can a hospital decide by what it claims. Its score counts at most by as many validation patients
as its training cases make plausible, and in a comparison by the smaller of its two numbers, so a
number that is claimed once changes nothing. No hospital has more than `MAX_SHARE` of a score: the
others' shares then add up to two thirds or more, so a false score must be twice as wrong as theirs
are right. Of two hospitals each has half; then neither can be outvoted, and only
`consortium.orchestration.flagging` shows that they part.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

MAX_SHARE = 1 / 3
"""A hospital's largest share of a score, with three hospitals or more."""
_SLACK_FACTOR, _SLACK = 2, 10


@dataclass(frozen=True, slots=True)
class HospitalScore:
    """The score over a hospital's validation patients, and their number."""

    value: float
    patients: int


@dataclass(frozen=True, slots=True)
class SelectionDecision:
    """The decision that follows from a model's scores.

    Attributes:
        score: mean over the hospitals, weighted by patients; None if no hospital sent a score.
        best: whether this model is the best so far.
        stop: whether the run should stop for lack of progress.
    """

    score: float | None
    best: bool
    stop: bool


@dataclass(slots=True)
class ModelSelection:
    """Chooses the best model of a run.

    Args:
        keep: `best` by score, with ties going to the later model; otherwise always the last model.
        patience: number of models without a new best after which to stop; 0 never stops.
        best_model: number of the best model so far; -1 at the start.
        best_scores: its scores by hospital.
        since_best: number of models observed since.
    """

    keep: Literal["average", "best", "last"] = "last"
    patience: int = 0
    best_model: int = -1
    best_scores: dict[str, HospitalScore] = field(default_factory=dict)
    since_best: int = 0

    def observe(self, model: int, scores: Mapping[str, HospitalScore]) -> SelectionDecision:
        """Observes the scores of a model.

        Args:
            model: its number; each model is observed once, in order.
            scores: by hospital; hospitals that withhold their score are absent.
        """
        common = scores.keys() & self.best_scores.keys()
        if self.keep != "best" or not self.best_scores:
            best = True
        elif not common:
            best = False
        else:
            patients = {
                name: min(scores[name].patients, self.best_scores[name].patients) for name in common
            }
            best = _mean(scores, patients) >= _mean(self.best_scores, patients)
        if best:
            self.best_model, self.best_scores, self.since_best = model, dict(scores), 0
        else:
            self.since_best += 1
        return SelectionDecision(
            _mean(scores, {name: score.patients for name, score in scores.items()})
            if scores
            else None,
            best,
            bool(self.patience) and self.since_best >= self.patience,
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the state as JSON types; see `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "ModelSelection":
        """Restores the state that `to_dict` returned.

        Raises:
            TypeError: a field is missing or unknown.
        """
        scores = {name: HospitalScore(**score) for name, score in raw["best_scores"].items()}
        return cls(**(raw | {"best_scores": scores}))


def plausible_patients(cases: int, validation_fraction: float) -> int:
    """Returns the largest number of validation patients by which a score counts.

    A hospital may split its patients otherwise than the job says, so twice the expected number and
    ten more are plausible.

    Args:
        cases: the hospital's training cases, at least as many as its training patients.
        validation_fraction: share of patients that the job sets aside, 0 to 1.
    """
    odds = validation_fraction / (1 - validation_fraction) if validation_fraction < 1 else 1.0
    return math.ceil(_SLACK_FACTOR * odds * cases) + _SLACK


def shares_of(patients: Mapping[str, int]) -> dict[str, float]:
    """Returns the hospitals' shares of a score, which add up to 1.

    Args:
        patients: number of validation patients by hospital, each at least 1.

    Returns:
        In proportion to the patients, except that no share exceeds the larger of `MAX_SHARE` and
        an equal share.
    """
    limit = max(MAX_SHARE, 1 / len(patients))
    # Sorted, so that the sum does not depend on the order of arrival.
    names = sorted(patients, key=lambda name: (-patients[name], name))
    rest = sum(patients.values())
    for number, name in enumerate(names):
        free = 1 - number * limit  # what is left beside those at the limit
        if free <= 0 or patients[name] * free <= limit * rest:
            break
        rest -= patients[name]
    else:
        number, free = len(names), 0.0
    return {
        name: limit if position < number else free * patients[name] / rest
        for position, name in enumerate(names)
    }


def _mean(scores: Mapping[str, HospitalScore], patients: Mapping[str, int]) -> float:
    shares = shares_of(patients)
    return math.fsum(scores[name].value * share for name, share in shares.items())


def first_averaged(rounds: int, share: float) -> int:
    """Returns the number above which models are averaged: the last `share`, at least one.

    Args:
        rounds: the rounds that the job declares; model k is the result of k rounds.
        share: share of the rounds, 0 to 1.
    """
    return rounds - max(1, math.ceil(round(rounds * share, 9)))
