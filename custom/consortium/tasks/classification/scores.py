"""Scores a classification of X-rays: figures of each class against the others."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consortium.protocol.metrics import Score
from consortium.tasks.classification.settings import (
    ACCURACY,
    CALIBRATION_ERROR,
    CLASS_FIGURES,
    class_figure,
)
from consortium.tasks.measurement import ScoredGroup
from consortium.tasks.scores import (
    Floats,
    bin_starts,
    calibration_errors,
    curve_figures,
    interval,
    reliability,
    resample,
    with_both,
)

RESAMPLES = 1_000
"""Bootstrap resamples of an interval: few, for X-rays have many figures. Drawn in ten parts to save
memory."""


def classify_radiographs(
    probabilities: NDArray[Any],
    truth: NDArray[Any],
    patients: Sequence[str],
    classes: Sequence[str],
    smallest_group: int,
    *,
    specificity: float,
) -> tuple[float, Score, tuple[str, ...], tuple[ScoredGroup, ...]]:
    """Gives the accuracy, for the hospital's own use, and the score that may leave the hospital.

    Further it gives the patients behind the score, and its groups of figures; see `Measured`.

    Counts each patient once for each label: probabilities are averaged over a patient's X-rays of
    one label. Excludes classes with fewer such patients than `smallest_group`: they have no
    figures, and the score is that of the other classes' patients, so that it does not depend on
    them. If no class remains, the whole score is withheld. Intervals are 95 % percentile bootstraps
    over patients, with fixed bins of the calibration error.

    Args:
        probabilities: of each class (X-rays, C), for one X-ray at least.
        truth: number of the class (X-rays,).
        patients: the patient of each X-ray.
        classes: names of the C classes.
        smallest_group: smallest number of patients of a class whose figures may leave.
        specificity: specificity at which the sensitivity is reported.
    """
    units, means, truth = _by_patient(probabilities, truth, patients)
    value = float((means.argmax(1) == truth).mean())
    counts = np.bincount(truth, minlength=len(classes))
    reported = [number for number, count in enumerate(counts) if count >= max(1, smallest_group)]
    if not reported:
        withheld = Score(withheld=f"fewer than {smallest_group} patients of a class")
        return value, withheld, (), ()
    kept = np.isin(truth, reported)
    means, truth = means[kept], truth[kept]
    comparisons = [
        _ClassAgainstRest(
            means[:, number], truth == number, classes[number], smallest_group, specificity
        )
        for number in reported
        if len(reported) > 1
    ]
    correct = means.argmax(1) == truth
    figures: dict[str, float | None] = {
        ACCURACY: None,
        **{class_figure(figure, name): None for figure in CLASS_FIGURES for name in classes},
    }
    for name, values in _figures(correct, comparisons, np.ones((1, len(truth)))):
        figures[name] = float(values[0])
    score = Score(
        patients=len(truth),
        support={classes[number]: int(counts[number]) for number in reported},
        figures=figures,
        interval=_intervals(correct, comparisons, truth, figures) or None,
        reliability={c.name: c.curve for c in comparisons if c.curve} or None,
    )
    names = tuple(unit for unit, chosen in zip(units, kept, strict=True) if chosen)
    groups = [ScoredGroup(subject="hits", figures=(ACCURACY,), values=correct)]
    groups += [
        ScoredGroup(
            subject="order",
            figures=tuple(class_figure(figure, classes[number]) for figure in CLASS_FIGURES),
            values=means[:, number],
            positive=truth == number,
            curve=classes[number],
        )
        for number in reported
        if len(reported) > 1
    ]
    return value, score, names, tuple(groups)


def _by_patient(
    probabilities: NDArray[Any], truth: NDArray[Any], patients: Sequence[str]
) -> tuple[list[str], Floats, NDArray[np.int64]]:
    """Patient, mean probabilities (units, C) and class (units,) of each patient with a label."""
    radiographs: dict[tuple[str, int], list[int]] = defaultdict(list)
    for radiograph, unit in enumerate(zip(patients, truth.tolist(), strict=True)):
        radiographs[unit].append(radiograph)
    units = sorted(radiographs)
    means = [np.asarray(probabilities[radiographs[unit]], np.float64).mean(0) for unit in units]
    names = [patient for patient, _ in units]
    return names, np.array(means), np.array([label for _, label in units], np.int64)


class _ClassAgainstRest:
    """The figures of one class against all others."""

    def __init__(
        self,
        predicted: Floats,
        positive: NDArray[Any],
        name: str,
        smallest_group: int,
        specificity: float,
    ):
        self.name, self._specificity = name, specificity
        self._order = np.argsort(predicted, kind="stable")
        self._predicted, self._positive = predicted[self._order], positive[self._order]
        self._starts = bin_starts(self._predicted, smallest_group)
        self.curve = (
            None
            if self._starts is None
            else reliability(self._predicted, self._positive, self._starts)
        )
        self.fewest = min(int(positive.sum()), int((~positive).sum()))

    def figures(self, weights: NDArray[Any]) -> Iterator[tuple[str, Floats]]:
        """The figures that can be estimated, over resamples with patients of both kinds."""
        weights = with_both(weights[:, self._order], self._positive)
        figures = list(curve_figures(self._predicted, self._positive, weights, self._specificity))
        if self._starts is not None:
            figures.append(
                calibration_errors(self._predicted, self._positive, weights, self._starts)
            )
        for figure, values in zip(CLASS_FIGURES, figures, strict=False):
            yield class_figure(figure, self.name), values


def _figures(
    correct: NDArray[Any], comparisons: Sequence[_ClassAgainstRest], weights: NDArray[Any]
) -> Iterator[tuple[str, Floats]]:
    yield ACCURACY, weights @ correct / weights.sum(1)
    for comparison in comparisons:
        yield from comparison.figures(weights)


def _intervals(
    correct: NDArray[Any],
    comparisons: Sequence[_ClassAgainstRest],
    truth: NDArray[Any],
    figures: Mapping[str, float | None],
) -> dict[str, list[float]]:
    """Intervals of the figures that rest on at least two patients of the class and two others.

    A resample is less calibrated than the patients themselves, so the draws of a calibration error
    lie above it. They are reflected about it (the basic interval; Davison & Hinkley, Bootstrap
    Methods and Their Application, 1997, eq. 5.6).
    """
    if len(truth) < 2:
        return {}
    generator = np.random.default_rng(0)
    comparisons = [comparison for comparison in comparisons if comparison.fewest > 1]
    draws: dict[str, list[Floats]] = defaultdict(list)
    for _ in range(10):
        weights = resample(len(truth), RESAMPLES // 10, generator)
        for name, values in _figures(correct, comparisons, weights):
            draws[name].append(values)
    samples = {name: np.concatenate(parts) for name, parts in draws.items()}
    for name, values in samples.items():
        if name.startswith(CALIBRATION_ERROR):
            samples[name] = 2 * (figures[name] or 0.0) - values
    return {name: interval(values) for name, values in samples.items()}
