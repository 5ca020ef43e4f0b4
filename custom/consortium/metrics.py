"""What a hospital says of a model beside tensors; nothing here needs torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from consortium.provenance.statement import Statement

Fraction = Annotated[float, Field(ge=0, le=1)]
Interval = Annotated[list[Fraction], Field(min_length=2, max_length=2)]
FIGURES = ("accuracy", "AUROC")
"""What a classification is scored by; the first one chooses a model, for it always exists."""


CLASS_FIGURES = ("AUROC", "average precision", "sensitivity", "calibration error")
"""What is told of each class of films, against all others."""


def film_figures(classes: Sequence[str]) -> tuple[str, ...]:
    """The names of the figures of a classification of films; the first one chooses a model."""
    of_classes = (class_figure(figure, name) for figure in CLASS_FIGURES for name in classes)
    return (FIGURES[0], *of_classes)


def class_figure(figure: str, name: str) -> str:
    """The name of a figure of one class."""
    return f"{figure}, {name}"


@dataclass(frozen=True, slots=True)
class Scored:
    """What a job's scores are of.

    Attributes:
        kind: of the score, `dice` or `classes`.
        names: that it may hold, all of them.
        classes: those of the names that are classes of patients.
    """

    kind: str
    names: tuple[str, ...]
    classes: tuple[str, ...] = ()


class Score(BaseModel):
    """The Dice over a hospital's patients, or the statement that it is withheld.

    Attributes:
        patients: number of patients; null where withheld.
        dice: mean over these patients of each structure's Dice; null where withheld.
        interval: 95 % bootstrap interval of each of these means; null where withheld, and for one
            patient.
        withheld: why nothing is said of so few patients, in these words alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: ClassVar[str] = "dice"
    patients: Annotated[int, Field(ge=1)] | None = None
    dice: dict[str, Fraction] | None = None
    interval: dict[str, Interval] | None = None
    withheld: Annotated[str, Field(pattern=r"^fewer than \d{1,6} patients$")] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> "Score":
        if len({self.dice is None, self.patients is None, self.withheld is not None}) > 1:
            raise ValueError("either dice and patients or withheld")
        if self.interval is not None:
            if self.dice is None or self.interval.keys() != self.dice.keys():
                raise ValueError("an interval of each Dice or of none")
            if any(low > high for low, high in self.interval.values()):
                raise ValueError("an interval from its lower to its upper end")
        return self

    @property
    def mean_dice(self) -> float | None:
        """Mean over the structures, or None where withheld."""
        return sum(self.dice.values()) / len(self.dice) if self.dice else None

    @property
    def value(self) -> float | None:
        """By which a model is chosen."""
        return self.mean_dice

    @property
    def names(self) -> set[str]:
        """The structures."""
        return set(self.dice or {})


class Classification(BaseModel):
    """How well a hospital's patients are classified, or the statement that it is withheld.

    Attributes:
        patients: number of patients; null where withheld.
        support: how many of them are of each class; null where withheld.
        figures: each of `FIGURES`; one is null where it cannot be estimated, as there are patients
            of one class only.
        interval: 95 % bootstrap interval of each figure that has one.
        withheld: why nothing is said of so few patients, in these words alone. Few of one class
            withhold all of it: what a model is right about can tell how many they are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: ClassVar[str] = "classes"
    patients: Annotated[int, Field(ge=1)] | None = None
    support: dict[str, Annotated[int, Field(ge=0)]] | None = None
    figures: dict[str, Fraction | None] | None = None
    interval: dict[str, Interval] | None = None
    withheld: (
        Annotated[str, Field(pattern=r"^fewer than \d{1,6} patients( of a class)?$")] | None
    ) = None

    @model_validator(mode="after")
    def _one_of_them(self) -> "Classification":
        told = {self.figures is None, self.patients is None, self.support is None}
        if len(told | {self.withheld is not None}) > 1:
            raise ValueError("either figures, patients and support or withheld")
        if self.support is not None and sum(self.support.values()) != self.patients:
            raise ValueError("every patient is of one class")
        if self.figures is not None and self.figures.get(FIGURES[0]) is None:
            raise ValueError(f"there is always an {FIGURES[0]}")
        for name, (low, high) in (self.interval or {}).items():
            if (self.figures or {}).get(name) is None or low > high:
                raise ValueError("an interval of a figure, from its lower to its upper end")
        return self

    @property
    def value(self) -> float | None:
        """By which a model is chosen."""
        return self.figures[FIGURES[0]] if self.figures else None

    @property
    def names(self) -> set[str]:
        """The figures and the classes."""
        return {*(self.figures or {}), *(self.support or {})}


AnyScore = Score | Classification


class Metrics(BaseModel):
    """What a hospital says of a round beside its tensors.

    Attributes:
        loss: mean training loss over the round's steps; null where withheld or not trained.
        steps: optimiser steps that were taken; null where not trained.
        seconds: duration of the local training.
        validation: score of the round's base on the hospital's own validation patients; null
            where it has none.
        provenance: what the probe was told, where it was asked for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    loss: float | None = None
    steps: Annotated[int | None, Field(ge=1)] = None
    seconds: Annotated[float, Field(ge=0)] = 0.0
    validation: AnyScore | None = None
    provenance: Statement | None = None

    def fit(self, scored: Scored, max_cases: int) -> bool:
        """Whether a score is of what the job scores and over a plausible number of patients."""
        score = self.validation
        if score is None:
            return True
        if score.kind != scored.kind:
            return False
        if score.patients is None:
            return True
        return score.names == set(scored.names) and score.patients <= max_cases
