"""Which model of a run is kept, and when a run stops early: pure, fed with one score a model.

Model k is the one handed out in round k; model 0 is where the run started and the last aggregate
is scored too, by a question of its own after the last round. Two models are compared on the
hospitals that scored both, so a hospital that drops out cannot decide which model is kept.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class HospitalScore:
    """The score over a hospital's validation patients and their number."""

    value: float
    patients: int


@dataclass(frozen=True, slots=True)
class SelectionDecision:
    """What follows from a model's scores.

    Attributes:
        score: mean over all validation patients; None where no hospital gave one.
        best: whether this model is the one to keep so far.
        stop: whether the run should stop for want of progress.
    """

    score: float | None
    best: bool
    stop: bool


@dataclass(slots=True)
class ModelSelection:
    """Chooses the best model of a run.

    Args:
        keep: `best` by score, later models winning ties; otherwise always the last one.
        patience: models without a new best after which to stop; 0 never stops.
        best_model: number of the best model so far; -1 at the start.
        best_scores: its scores by hospital.
        since_best: models seen since.
    """

    keep: Literal["average", "best", "last"] = "last"
    patience: int = 0
    best_model: int = -1
    best_scores: dict[str, HospitalScore] = field(default_factory=dict)
    since_best: int = 0

    def observe(self, model: int, scores: Mapping[str, HospitalScore]) -> SelectionDecision:
        """Takes the scores of a model.

        Args:
            model: its number; each is observed once, in order.
            scores: by hospital; hospitals that withhold theirs are absent.
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
        """The state as JSON types; see `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "ModelSelection":
        """Continues from `to_dict`.

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
    """Models of a higher number than this are averaged: the last `share` of them, at least one.

    Args:
        rounds: that the job declares; model k has k rounds behind it.
        share: of the rounds, 0 to 1.
    """
    return rounds - max(1, math.ceil(round(rounds * share, 9)))
