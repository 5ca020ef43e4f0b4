"""What a hospital says of a model beside tensors; nothing here needs torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from consortium.confounding.probe_statistics import ProbeStatistics

Fraction = Annotated[float, Field(ge=0, le=1)]
Interval = Annotated[list[Fraction], Field(min_length=2, max_length=2)]
Bin = Annotated[list[Annotated[int | float, Field(ge=0)]], Field(min_length=3, max_length=3)]
"""Mean predicted, observed share, patients."""

FIGURES = ("accuracy", "AUROC")
"""What an outcome of two classes is scored by."""


CLASS_FIGURES = ("AUROC", "average precision", "sensitivity", "calibration error")
"""What is told of each class of X-rays, against all others."""


def radiograph_figures(classes: Sequence[str]) -> tuple[str, ...]:
    """The names of the figures of a classification of X-rays."""
    of_classes = (class_figure(figure, name) for figure in CLASS_FIGURES for name in classes)
    return (FIGURES[0], *of_classes)


def headline(figures: Mapping[str, float | None]) -> float | None:
    """By which classifications are compared and chosen.

    Of X-rays the mean of the classes' AUROC, as far as they can be estimated: accuracy says more of
    how often a class is had at a hospital. Of an outcome of two classes the accuracy.
    """
    if not any(", " in name for name in figures):
        return figures.get(FIGURES[0])
    areas = [
        value
        for name, value in figures.items()
        if name.startswith(f"{CLASS_FIGURES[0]}, ") and value is not None
    ]
    return sum(areas) / len(areas) if areas else None


def class_figure(figure: str, name: str) -> str:
    """The name of a figure of one class."""
    return f"{figure}, {name}"


@dataclass(frozen=True, slots=True)
class Scored:
    """What a job's scores are of.

    Attributes:
        kind: of the score, `dice` or `classes`.
        names: of the structures or figures that it holds, all of them.
        classes: that a classification may tell of, none of others.
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

    def fits(self, scored: Scored) -> bool:
        """Whether it is of the job's structures."""
        return set(self.dice or {}) == set(scored.names)


class Classification(BaseModel):
    """How well a hospital's patients are classified, or the statement that it is withheld.

    Attributes:
        patients: number of patients; null where withheld.
        support: how many of them are of each class that is told of; null where withheld.
        figures: each of `FIGURES`, or of `radiograph_figures`; one is null where it cannot be
            estimated, as there are patients of one class only, or nothing is told of its class.
        interval: 95 % bootstrap interval of each figure that has one.
        reliability: of classes whose calibration error is told, the bins behind it.
        withheld: why nothing is said of so few patients, in these words alone. In a table few of
            one class withhold all of it: what a model is right about can tell how many they are.
            Of X-rays such a class takes no part in what is told, and all of it is withheld where
            no class is left.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: ClassVar[str] = "classes"
    patients: Annotated[int, Field(ge=1)] | None = None
    support: dict[str, Annotated[int, Field(ge=0)]] | None = None
    figures: dict[str, Fraction | None] | None = None
    interval: dict[str, Interval] | None = None
    reliability: dict[str, Annotated[list[Bin], Field(min_length=1, max_length=20)]] | None = None
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

    @model_validator(mode="after")
    def _reliable(self) -> "Classification":
        for name, bins in (self.reliability or {}).items():
            if (self.figures or {}).get(f"{CLASS_FIGURES[-1]}, {name}") is None:
                raise ValueError("a reliability curve where a calibration error is told")
            for mean, share, patients in bins:
                if max(mean, share) > 1 or not isinstance(patients, int) or patients < 1:
                    raise ValueError("a bin is a mean, a share and a number of patients")
            if sum(patients for _, _, patients in bins) != self.patients:
                raise ValueError("every patient is in one bin")
        return self

    @property
    def value(self) -> float | None:
        """By which a model is chosen."""
        return headline(self.figures or {})

    def fits(self, scored: Scored) -> bool:
        """Whether its figures are the job's, and its classes among the job's."""
        classes = set(self.support or {})
        return set(self.figures or {}) == set(scored.names) and classes <= set(scored.classes)


AnyScore = Score | Classification


class Metrics(BaseModel):
    """What a hospital says of a round beside its tensors.

    Attributes:
        loss: mean training loss over the round's steps; null where withheld or not trained.
        steps: optimiser steps that were taken; null where not trained.
        seconds: duration of the local training.
        validation: score of the round's base on the hospital's own validation patients; null
            where it has none.
        confounding: what the probe was told, where it was asked for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    loss: float | None = None
    steps: Annotated[int | None, Field(ge=1)] = None
    seconds: Annotated[float, Field(ge=0)] = 0.0
    validation: AnyScore | None = None
    confounding: ProbeStatistics | None = None

    def fit(self, scored: Scored, max_cases: int) -> bool:
        """Whether a score is of what the job scores and over a plausible number of patients."""
        score = self.validation
        if score is None:
            return True
        if score.kind != scored.kind:
            return False
        if score.patients is None:
            return True
        return score.fits(scored) and score.patients <= max_cases
