"""Decides which model of a run is kept and when a run stops early.

Model k is sent to the hospitals in round k. Model 0 is the start of the run; the last aggregate is
scored by a separate request after the last round. Two models are compared on the hospitals that
scored both, so a hospital that drops out cannot decide which model is kept.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class HospitalScore:
    """The score over a hospital's validation patients, and their number."""

    value: float
    patients: int


@dataclass(frozen=True, slots=True)
class SelectionDecision:
    """The decision that follows from a model's scores.

    Attributes:
        score: mean over all validation patients; None if no hospital sent a score.
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
            best = _mean(scores, common) >= _mean(self.best_scores, common)
        if best:
            self.best_model, self.best_scores, self.since_best = model, dict(scores), 0
        else:
            self.since_best += 1
        return SelectionDecision(
            _mean(scores, scores.keys()) if scores else None,
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


def _mean(scores: Mapping[str, HospitalScore], hospitals: Collection[str]) -> float:
    # Sorted, so that the sum does not depend on the order of arrival.
    chosen = [scores[name] for name in sorted(hospitals)]
    patients = sum(score.patients for score in chosen)
    return sum(score.value * score.patients for score in chosen) / patients


def first_averaged(rounds: int, share: float) -> int:
    """Returns the number above which models are averaged: the last `share`, at least one.

    Args:
        rounds: the rounds that the job declares; model k is the result of k rounds.
        share: share of the rounds, 0 to 1.
    """
    return rounds - max(1, math.ceil(round(rounds * share, 9)))
