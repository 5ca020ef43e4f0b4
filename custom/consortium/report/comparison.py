"""Compares the scores of the local, the federated and, if known, the centralised model.

Always: a withheld or missing score is shown as text, never as a number; an interval is shown only
if the hospital sent one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from consortium.core.plurals import plural
from consortium.protocol.metrics import FEW, MetricSpec, ScoreSpec, descriptive
from consortium.report.figures import Score, figures_of, value_of
from consortium.tasks.text import TaskText

MODELS = {
    "local": "a model that the hospital trained alone",
    "federated": "the model that the hospitals trained together",
    "centralised": "a model trained on all cases in one place",
}
"""The models that are compared, in the order of a hospital's rows."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """One row of the dot plot.

    Attributes:
        model: a key of `MODELS`.
        value: the figure over the hospital's patients, or None.
        interval: 95 % interval of the mean, or None if none was sent.
        note: why there is no value, or how far it can be relied on.
    """

    model: str
    value: float | None
    interval: tuple[float, float] | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """The rows of one hospital, or of all hospitals together.

    Attributes:
        name: the hospital's name.
        counts: numbers of cases and patients, in words.
        estimates: one for each model of the plot; empty if there is nothing to show.
        note: why there is nothing to show.
    """

    name: str
    counts: list[str]
    estimates: list[Estimate]
    note: str = ""


@dataclass(frozen=True, slots=True)
class DotPlot:
    """One figure at all hospitals.

    Attributes:
        metric: the figure; None if nothing was scored.
        spec: all figures of the run.
        models: keys of `MODELS` with a score at any hospital.
        groups: the hospitals.
        overall: means over the patients of all hospitals; None if fewer than two hospitals
            reported a score.
        start: lower end of the axis.
        end: upper end of the axis.
        has_intervals: whether any hospital sent an interval.
    """

    metric: MetricSpec | None
    spec: ScoreSpec
    models: list[str]
    groups: list[Group]
    overall: Group | None
    start: float
    end: float
    has_intervals: bool

    @property
    def name(self) -> str:
        """The figure's name in a score; empty if nothing was scored."""
        return "" if self.metric is None else self.metric.name

    @property
    def by_structure(self) -> bool:
        """Whether the run has one figure for each structure, named after it."""
        return self.spec.metrics[0].by_structure

    def figure(self, text: TaskText) -> str:
        """The name of the figure, as a noun."""
        return (text.headline if self.by_structure else self.name) or text.headline

    def head(self, text: TaskText) -> str:
        """The figure's name in the head of its column, without the class."""
        return text.headline if self.metric is None else self.metric.figure

    def caption(self, text: TaskText) -> str:
        """The figure's name in the caption of its table."""
        if self.by_structure:
            return f"{text.headline} of {self.name or 'the model'}"
        return self.figure(text)

    @property
    def further(self) -> bool:
        """Whether the figure is folded away on the page, as of secondary interest."""
        return self.metric is not None and self.metric.further

    def position(self, value: float) -> str:
        """A value's position on the axis, in percent of its length."""
        share = (value - self.start) / (self.end - self.start)
        return f"{100 * min(1.0, max(0.0, share)):.2f}%"


@dataclass(frozen=True, slots=True)
class Means:
    """Means over the patients of the hospitals that reported a score of the federated model.

    Attributes:
        hospitals: number of these hospitals.
        patients: number of their patients.
        values: mean by model; without models that one of these hospitals has no score of.
    """

    hospitals: int
    patients: int
    values: Mapping[str, float]


def average_scores(
    hospitals: Sequence[Mapping[str, Any]], spec: ScoreSpec, metric: MetricSpec | None = None
) -> Means:
    """Averages the hospitals' scores, weighted by their patients.

    Args:
        hospitals: `hospitals` of `result.json`.
        spec: the figures of the scores.
        metric: one figure, or None for the headline.
    """
    reported = [
        row for row in hospitals if value_of(row.get("federated"), spec, metric) is not None
    ]
    means = {}
    for model in MODELS:
        products, patients = 0.0, 0
        for row in reported:
            value = value_of(row.get(model), spec, metric)
            if value is None:
                break
            products += value * row[model]["patients"]
            patients += row[model]["patients"]
        else:
            if patients:
                means[model] = products / patients
    return Means(len(reported), sum(row["federated"]["patients"] for row in reported), means)


def compare(hospitals: Sequence[Mapping[str, Any]], spec: ScoreSpec) -> list[DotPlot]:
    """Makes the dot plots of a run, one a figure; one without a name if nothing was scored.

    Args:
        hospitals: `hospitals` of `result.json`.
        spec: the figures of the scores.
    """
    models = [
        model
        for model in MODELS
        if model == "federated" or any(row.get(model) is not None for row in hospitals)
    ]
    scored = {name for row in hospitals for model in models for name in figures_of(row.get(model))}
    metrics = [metric for metric in spec.metrics if metric.name in scored]
    plots = [_plot(hospitals, models, spec, metric) for metric in metrics]
    return plots or [_plot(hospitals, models, spec, None)]


def _plot(
    hospitals: Sequence[Mapping[str, Any]],
    models: list[str],
    spec: ScoreSpec,
    metric: MetricSpec | None,
) -> DotPlot:
    groups = [_group(row, models, spec, metric) for row in hospitals]
    estimates = [estimate for group in groups for estimate in group.estimates]
    ends = [estimate.value for estimate in estimates if estimate.value is not None]
    ends += [end for estimate in estimates for end in estimate.interval or ()]
    means = average_scores(hospitals, spec, metric)
    start, end = _axis(metric, ends)
    overall = None
    if means.hospitals > 1:
        complete = means.hospitals == len(hospitals)
        count = f"all {len(hospitals)}" if complete else f"{means.hospitals} of {len(hospitals)}"
        overall = Group(
            f"{count} hospitals",
            [plural(means.patients, "patient")],
            [
                Estimate(
                    model,
                    means.values.get(model),
                    note="" if model in means.values else "not reported by all of them",
                )
                for model in models
            ],
        )
    return DotPlot(
        metric=metric,
        spec=spec,
        models=models,
        groups=groups,
        overall=overall,
        start=start,
        end=end,
        has_intervals=any(estimate.interval for estimate in estimates),
    )


def _axis(metric: MetricSpec | None, ends: Sequence[float]) -> tuple[float, float]:
    """The ends of the axis: the range of the metric, or its upper half if all values lie there."""
    low, high = (0.0, 1.0) if metric is None else (metric.low, metric.high)
    if high is None:
        return low, max([low + 1.0, *ends])
    middle = (low + high) / 2
    return (middle if ends and min(ends) >= middle else low), high


def _group(
    row: Mapping[str, Any], models: Sequence[str], spec: ScoreSpec, metric: MetricSpec | None
) -> Group:
    cases = row["cases"]
    counts = [
        plural(cases[which], noun)
        for which, noun in (("training", "training case"), ("validation", "patient"))
        if cases[which] is not None
    ]
    estimates = [_estimate(model, row.get(model), spec, metric) for model in models]
    note = ""
    if all(estimate.value is None for estimate in estimates):
        note = next((e.note for e in estimates if e.note != _NOT_SCORED), _NOT_SCORED)
        estimates = []
    return Group(row["name"], counts, estimates, note)


_NOT_SCORED = "not scored"


def _estimate(
    model: str, score: Score | None, spec: ScoreSpec, metric: MetricSpec | None
) -> Estimate:
    if not score:
        return Estimate(model, None, note=_NOT_SCORED)
    value = figures_of(score).get(metric.name) if metric else None
    if metric is None or value is None:
        reason = score["withheld"]
        note = "not estimable" if figures_of(score) else _NOT_SCORED
        label = spec.classes and metric is not None and metric.of
        if label and label not in (score.get("support") or {}):
            note = "few or no patients of the class"
        return Estimate(model, None, note=f"withheld by the hospital: {reason}" if reason else note)
    interval = (score.get("interval") or {}).get(metric.name)
    note = (
        f"descriptive: fewer than {FEW} patients"
        if descriptive(score.get("support"), metric)
        else ""
    )
    return Estimate(model, value, (interval[0], interval[1]) if interval else None, note)
