"""The metrics that a hospital sends with its tensors. Nothing here needs torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from consortium.confounding.probe_statistics import ProbeStatistics

Fraction = Annotated[float, Field(ge=0, le=1)]
Interval = Annotated[list[float], Field(min_length=2, max_length=2)]
Bin = Annotated[list[Annotated[int | float, Field(ge=0)]], Field(min_length=3, max_length=3)]
"""Mean predicted probability, observed share, number of patients."""

FEW = 10
"""A figure of a class with fewer patients, inside or outside the class, only describes them."""

_OF_A_CLASS = "of a class"
TOO_MANY_QUESTIONS = "too many questions"
"""The words of a score that is withheld because the hospital has reported enough of them."""


class Score(BaseModel):
    """A task's figures over a hospital's patients, or the reason why they are withheld.

    `ScoreSpec` defines which figures a job accepts.

    Attributes:
        patients: number of patients; null if withheld.
        support: number of patients of each reported class; null if withheld, or if the task has no
            classes.
        figures: by name; null if withheld. A figure is null if it cannot be estimated.
        interval: 95 % interval of each figure that has one.
        reliability: for each class, the bins behind its calibration error.
        withheld: why a score of few patients is withheld, in fixed words. For tables, one class
            below the minimum group size withholds the whole score, because a model's hits can
            reveal the number of its patients. For X-rays, classes below the minimum group size are
            excluded; if none remain, the whole score is withheld. It is also withheld if too few
            patients changed since an earlier score, or after too many questions.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    patients: Annotated[int, Field(ge=1)] | None = None
    support: dict[str, Annotated[int, Field(ge=0)]] | None = None
    figures: dict[str, float | None] | None = None
    interval: dict[str, Interval] | None = None
    reliability: dict[str, Annotated[list[Bin], Field(min_length=1, max_length=20)]] | None = None
    withheld: (
        Annotated[
            str,
            Field(
                pattern=rf"^(fewer than \d{{1,6}} patients( {_OF_A_CLASS}| changed)?"
                rf"|{TOO_MANY_QUESTIONS})$"
            ),
        ]
        | None
    ) = None

    @model_validator(mode="after")
    def _complete_or_withheld(self) -> "Score":
        if len({self.figures is None, self.patients is None, self.withheld is not None}) > 1:
            raise ValueError("a score has either figures and patients or withheld")
        if self.support is not None and sum(self.support.values()) != self.patients:
            raise ValueError("every patient belongs to one class")
        for name, (low, high) in (self.interval or {}).items():
            if (self.figures or {}).get(name) is None or low > high:
                raise ValueError("an interval needs a figure and runs from its lower to upper end")
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
        name: key in a score. A score with a single figure for each structure uses the structure's
            name.
        figure: kind of figure, such as `Dice` or `AUROC`.
        of: structure or class that it describes; empty if it describes all.
        low: lowest value.
        high: largest value, or None if there is none.
        required: whether every score that is not withheld has it; otherwise it is null if it cannot
            be estimated. Either all required figures have an interval or none has.
        headline: whether it is part of the mean by which models are compared and selected. Larger
            is better.
        further: whether it is a secondary figure of a class, which few people read.
        reliability: whether bins of predicted and observed shares may accompany it.
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
        """Whether its name is the structure's."""
        return self.name == self.of

    def holds(self, value: float) -> bool:
        """Whether a value is possible."""
        return self.low <= value and (self.high is None or value <= self.high)


@dataclass(frozen=True, slots=True)
class ScoreSpec:
    """The figures and classes of a job's scores.

    Attributes:
        metrics: all figures of a score.
        classes: the classes that patients belong to; empty if the task has no classes.
    """

    metrics: tuple[MetricSpec, ...]
    classes: tuple[str, ...] = ()

    def headline(self, figures: Mapping[str, float | None] | None) -> float | None:
        """Computes the figure by which models are compared and selected.

        Args:
            figures: a score's figures by name.

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
        """Returns the headline figure of a class or structure, if it has one."""
        return next(
            (metric for metric in self.metrics if metric.headline and metric.of == name), None
        )

    def accepts(self, score: Score) -> bool:
        """Whether a score holds exactly the job's figures, each with a possible value."""
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
        return all(metric.holds(number) for number in (value, *ends))

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
    """Whether a class's figure only describes these patients, because they are too few.

    Args:
        support: number of patients of each class, if the task has classes.
        metric: the figure.
    """
    if not support or not metric.of:
        return False
    of_class = support.get(metric.of, 0)
    return min(of_class, sum(support.values()) - of_class) < FEW


class Metrics(BaseModel):
    """The metrics that a hospital sends in a round, besides its tensors.

    Attributes:
        loss: mean training loss over the round's steps; null if withheld or not trained.
        steps: number of optimiser steps; null if not trained.
        seconds: duration of the local training.
        validation: score of the round's base model on the hospital's own validation patients; null
            if it has none.
        confounding: statistics for the confounding probe, if they were requested.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    loss: float | None = None
    steps: Annotated[int | None, Field(ge=1)] = None
    seconds: Annotated[float, Field(ge=0)] = 0.0
    validation: Score | None = None
    confounding: ProbeStatistics | None = None

    def fits(self, spec: ScoreSpec, max_cases: int) -> bool:
        """Whether the score has the job's figures and a plausible number of patients."""
        score = self.validation
        return score is None or (spec.accepts(score) and (score.patients or 0) <= max_cases)
