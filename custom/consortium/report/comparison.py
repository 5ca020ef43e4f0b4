"""Scores side by side: of the model that a hospital trained alone, of the shared model and, where
known, of a model trained on all cases in one place.

What always holds: a score that was withheld or not made is a word, never a number; an interval is
shown where the hospital sent one and is never made up here.
"""  # noqa: D205

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from consortium.protocol.metrics import FEW, MetricSpec, ScoreSpec, descriptive
from consortium.report.figures import Score, figures_of, value_of
from consortium.tasks.text import TaskText

MODELS = {
    "local": "a model that the hospital trained alone",
    "federated": "the shared model",
    "centralised": "a model trained on all cases in one place",
}
"""The models that are compared, in the order of a hospital's lines."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """One line of the dot plot.

    Attributes:
        model: a key of `MODELS`.
        value: of the figure, over patients, or None.
        interval: 95 % interval of the mean, or None where none was sent.
        note: why there is no value, or what it is worth.
    """

    model: str
    value: float | None
    interval: tuple[float, float] | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """The lines of one hospital, or of all together.

    Attributes:
        name: of the hospital.
        counts: of cases and patients, in words.
        estimates: one for each model of the plot; empty where there is nothing to show.
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
        metric: the figure; None where nothing was scored.
        spec: of all figures of the run.
        models: keys of `MODELS` that are known somewhere.
        groups: the hospitals.
        together: means over patients of all hospitals; None where fewer than two hospitals say
            something.
        start: where the axis starts.
        end: where it ends.
        has_intervals: whether any hospital sent one.
    """

    metric: MetricSpec | None
    spec: ScoreSpec
    models: list[str]
    groups: list[Group]
    together: Group | None
    start: float
    end: float
    has_intervals: bool

    @property
    def name(self) -> str:
        """Its name in a score; empty where nothing was scored."""
        return "" if self.metric is None else self.metric.name

    @property
    def by_structure(self) -> bool:
        """Whether the run has one figure of each structure, named by the structure."""
        return self.spec.metrics[0].by_structure

    def figure(self, text: TaskText) -> str:
        """What the values are."""
        return (text.headline if self.by_structure else self.name) or text.headline

    def head(self, text: TaskText) -> str:
        """The same for the head of their column, without the class."""
        return text.headline if self.metric is None else self.metric.figure

    def caption(self, text: TaskText) -> str:
        """The same for the caption of their table."""
        if self.by_structure:
            return f"{text.headline} of {self.name or 'the model'}"
        return self.figure(text)

    @property
    def further(self) -> bool:
        """Whether it is one of many of a class, which few people look at."""
        return self.metric is not None and self.metric.further

    def place(self, value: float) -> str:
        """Where a value stands on the axis, in percent of its length."""
        share = (value - self.start) / (self.end - self.start)
        return f"{100 * min(1.0, max(0.0, share)):.2f}%"


@dataclass(frozen=True, slots=True)
class Means:
    """Means over the patients of the hospitals that let out a score of the shared model.

    Attributes:
        hospitals: how many these are.
        patients: how many they have.
        values: by model; a model that one of these hospitals has no score of has none.
    """

    hospitals: int
    patients: int
    values: Mapping[str, float]


def pool(
    hospitals: Sequence[Mapping[str, Any]], spec: ScoreSpec, metric: MetricSpec | None = None
) -> Means:
    """Weighs the hospitals' scores by their patients.

    Args:
        hospitals: of `result.json`.
        spec: of the scores.
        metric: one figure, or None for the headline.
    """
    told = [row for row in hospitals if value_of(row.get("federated"), spec, metric) is not None]
    means = {}
    for model in MODELS:
        products, patients = 0.0, 0
        for row in told:
            value = value_of(row.get(model), spec, metric)
            if value is None:
                break
            products += value * row[model]["patients"]
            patients += row[model]["patients"]
        else:
            if patients:
                means[model] = products / patients
    return Means(len(told), sum(row["federated"]["patients"] for row in told), means)


def compare(hospitals: Sequence[Mapping[str, Any]], spec: ScoreSpec) -> list[DotPlot]:
    """The dot plots of a run, one a figure; one without a name where nothing was scored.

    Args:
        hospitals: of `result.json`.
        spec: of the scores.
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
    means = pool(hospitals, spec, metric)
    start, end = _axis(metric, ends)
    together = None
    if means.hospitals > 1:
        every = means.hospitals == len(hospitals)
        counted = str(len(hospitals)) if every else f"{means.hospitals} of {len(hospitals)}"
        together = Group(
            f"{'all ' if every else ''}{counted} hospitals",
            [plural(means.patients, "patient")],
            [
                Estimate(
                    model,
                    means.values.get(model),
                    note="" if model in means.values else "not known of all of them",
                )
                for model in models
            ],
        )
    return DotPlot(
        metric=metric,
        spec=spec,
        models=models,
        groups=groups,
        together=together,
        start=start,
        end=end,
        has_intervals=any(estimate.interval for estimate in estimates),
    )


def _axis(metric: MetricSpec | None, ends: Sequence[float]) -> tuple[float, float]:
    """Where an axis starts and ends: the possible values, or the upper half where all lie there."""
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
        note = next((told.note for told in estimates if told.note != _NOTHING), _NOTHING)
        estimates = []
    return Group(row["name"], counts, estimates, note)


_NOTHING = "not scored"


def _estimate(
    model: str, score: Score | None, spec: ScoreSpec, metric: MetricSpec | None
) -> Estimate:
    if not score:
        return Estimate(model, None, note=_NOTHING)
    value = figures_of(score).get(metric.name) if metric else None
    if metric is None or value is None:
        why = score["withheld"]
        missing = "not estimable" if figures_of(score) else _NOTHING
        counted = spec.classes and metric is not None and metric.of
        if counted and counted not in (score.get("support") or {}):
            missing = "few or no patients of the class"
        return Estimate(model, None, note=f"withheld by the hospital: {why}" if why else missing)
    interval = (score.get("interval") or {}).get(metric.name)
    note = (
        f"descriptive: fewer than {FEW} patients"
        if descriptive(score.get("support"), metric)
        else ""
    )
    return Estimate(model, value, (interval[0], interval[1]) if interval else None, note)


def plural(number: int, noun: str) -> str:
    """A count with its noun."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
