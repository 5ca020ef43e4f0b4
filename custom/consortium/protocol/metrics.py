"""What a hospital reports of a model besides tensors; nothing here needs torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from consortium.confounding.probe_statistics import ProbeStatistics

Fraction = Annotated[float, Field(ge=0, le=1)]
Interval = Annotated[list[float], Field(min_length=2, max_length=2)]
Bin = Annotated[list[Annotated[int | float, Field(ge=0)]], Field(min_length=3, max_length=3)]
"""Mean predicted, observed share, patients."""

FEW = 10
"""Patients of a class, and of the others, below which a figure of it only describes them."""

_OF_A_CLASS = "of a class"


class Score(BaseModel):
    """Figures over a hospital's patients, or the statement that they are withheld.

    What the figures are is up to the task; `ScoreSpec` says what a job accepts.

    Attributes:
        patients: number of patients; null where withheld.
        support: how many of them are of each class that is reported; null where withheld, and where
            the task has no classes.
        figures: by name; null where withheld. A figure is null where it cannot be estimated.
        interval: 95 % interval of each figure that has one.
        reliability: by class, the bins behind its calibration error.
        withheld: why nothing is said of so few patients, in these words alone. In a table few of
            one class withhold all of it: what a model is right about can tell how many they are.
            For X-rays, classes below the minimum group size are excluded; if none remain, the whole
            score is withheld.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    patients: Annotated[int, Field(ge=1)] | None = None
    support: dict[str, Annotated[int, Field(ge=0)]] | None = None
    figures: dict[str, float | None] | None = None
    interval: dict[str, Interval] | None = None
    reliability: dict[str, Annotated[list[Bin], Field(min_length=1, max_length=20)]] | None = None
    withheld: (
        Annotated[str, Field(pattern=rf"^fewer than \d{{1,6}} patients( {_OF_A_CLASS})?$")] | None
    ) = None

    @model_validator(mode="after")
    def _one_of_them(self) -> "Score":
        if len({self.figures is None, self.patients is None, self.withheld is not None}) > 1:
            raise ValueError("either figures and patients or withheld")
        if self.support is not None and sum(self.support.values()) != self.patients:
            raise ValueError("every patient is of one class")
        for name, (low, high) in (self.interval or {}).items():
            if (self.figures or {}).get(name) is None or low > high:
                raise ValueError("an interval of a figure, from its lower to its upper end")
        return self

    @model_validator(mode="after")
    def _reliable(self) -> "Score":
        for bins in (self.reliability or {}).values():
            for mean, share, patients in bins:
                if max(mean, share) > 1 or not isinstance(patients, int) or patients < 1:
                    raise ValueError("a bin is a mean, a share and a number of patients")
            if sum(patients for _, _, patients in bins) != self.patients:
                raise ValueError("every patient is in one bin")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """One figure of a task's scores.

    Attributes:
        name: its key in a score. A score that has one figure of each structure names it by the
            structure.
        figure: what it is, such as `Dice` or `AUROC`.
        of: the structure or class that it is of; empty where it is of all.
        low: least value.
        high: largest value, or None where there is none.
        required: whether every score that is not withheld has it; else it is null where it cannot
            be estimated. Required figures have an interval all or none.
        headline: whether it is one of those whose mean models are compared and chosen by. Larger is
            better.
        further: whether it is one of many of a class, which few people look at.
        reliability: whether bins of predicted and observed shares may stand behind it.
    """

    name: str
    figure: str
    of: str = ""
    low: float = 0.0
    high: float | None = 1.0
    required: bool = True
    headline: bool = False
    further: bool = False
    reliability: bool = False

    @property
    def by_structure(self) -> bool:
        """Whether it is named by its structure alone."""
        return self.name == self.of

    def holds(self, value: float) -> bool:
        """Whether a value is possible."""
        return self.low <= value and (self.high is None or value <= self.high)


@dataclass(frozen=True, slots=True)
class ScoreSpec:
    """What a job's scores are of.

    Attributes:
        metrics: all figures of a score.
        classes: that patients are counted by; none where the task has no classes.
    """

    metrics: tuple[MetricSpec, ...]
    classes: tuple[str, ...] = ()

    def headline(self, figures: Mapping[str, float | None] | None) -> float | None:
        """The figure by which models are compared and chosen.

        Args:
            figures: of a score.

        Returns:
            The mean of the headline figures that could be estimated, or None without any.
        """
        values = [
            value
            for metric in self.metrics
            if metric.headline and (value := (figures or {}).get(metric.name)) is not None
        ]
        return sum(values) / len(values) if values else None

    def headline_of(self, name: str) -> MetricSpec | None:
        """The headline figure of a class or structure."""
        return next((one for one in self.metrics if one.headline and one.of == name), None)

    def accepts(self, score: Score) -> bool:
        """Whether a score holds the job's figures and no others, each of a possible value."""
        if score.withheld is not None:
            return bool(self.classes) or not score.withheld.endswith(_OF_A_CLASS)
        figures = score.figures or {}
        if figures.keys() != {metric.name for metric in self.metrics}:
            return False
        if (score.support is not None) != bool(self.classes):
            return False
        return (
            set(score.support or {}) <= set(self.classes)
            and all(self._possible(metric, score) for metric in self.metrics)
            and self._intervals_complete(score)
            and self._reliable(score)
        )

    def _possible(self, metric: MetricSpec, score: Score) -> bool:
        value = (score.figures or {}).get(metric.name)
        if value is None:
            return not metric.required
        ends = (score.interval or {}).get(metric.name, [])
        return all(metric.holds(each) for each in (value, *ends))

    def _intervals_complete(self, score: Score) -> bool:
        given = {
            metric.name in (score.interval or {}) for metric in self.metrics if metric.required
        }
        return len(given) < 2

    def _reliable(self, score: Score) -> bool:
        figures = score.figures or {}
        known = {
            metric.of
            for metric in self.metrics
            if metric.reliability and figures[metric.name] is not None
        }
        return set(score.reliability or {}) <= known


def descriptive(support: Mapping[str, int] | None, metric: MetricSpec) -> bool:
    """Whether a class's figure describes these patients and says little of any others.

    Args:
        support: how many patients are of each class, where the task has classes.
        metric: the figure.
    """
    if not support or not metric.of:
        return False
    of_class = support.get(metric.of, 0)
    return min(of_class, sum(support.values()) - of_class) < FEW


class Metrics(BaseModel):
    """What a hospital reports of a round besides its tensors.

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
    validation: Score | None = None
    confounding: ProbeStatistics | None = None

    def fit(self, spec: ScoreSpec, max_cases: int) -> bool:
        """Whether a score is of what the job scores and over a plausible number of patients."""
        score = self.validation
        return score is None or (spec.accepts(score) and (score.patients or 0) <= max_cases)
