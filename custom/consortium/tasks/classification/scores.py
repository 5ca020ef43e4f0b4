"""How well classes of X-rays are told apart: figures of each class against the rest."""

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
"""Of an interval of X-rays, which have many figures; drawn in ten parts, to spare memory."""


def classify_radiographs(
    probabilities: NDArray[Any],
    truth: NDArray[Any],
    patients: Sequence[str],
    classes: Sequence[str],
    smallest_group: int,
    *,
    specificity: float,
) -> tuple[float, Score]:
    """The accuracy, for the hospital's own use, and the score that may leave.

    What is counted is the patient with a label: probabilities are averaged over a patient's X-rays
    of one label. Of a class with fewer such patients than `smallest_group`, none or some, nothing
    is told, and nothing of what is told depends on them: it is the score of the other classes'
    patients. Intervals are 95 % percentile bootstraps over patients; the bins of the calibration
    error stay where they are.

    Args:
        probabilities: of each class (X-rays, C), of one X-ray at least.
        truth: number of the class (X-rays,).
        patients: whose X-ray it is.
        classes: names of the C classes.
        smallest_group: of patients, of which something may leave.
        specificity: at which the sensitivity is told.
    """
    means, truth = _by_patient(probabilities, truth, patients)
    value = float((means.argmax(1) == truth).mean())
    counts = np.bincount(truth, minlength=len(classes))
    told = [number for number, count in enumerate(counts) if count >= max(1, smallest_group)]
    if not told:
        return value, Score(withheld=f"fewer than {smallest_group} patients of a class")
    kept = np.isin(truth, told)
    means, truth = means[kept], truth[kept]
    sides = [
        _Side(means[:, number], truth == number, classes[number], smallest_group, specificity)
        for number in told
        if len(told) > 1
    ]
    right = means.argmax(1) == truth
    figures: dict[str, float | None] = {
        ACCURACY: None,
        **{class_figure(figure, name): None for figure in CLASS_FIGURES for name in classes},
    }
    for name, values in _figures(right, sides, np.ones((1, len(truth)))):
        figures[name] = float(values[0])
    return value, Score(
        patients=len(truth),
        support={classes[number]: int(counts[number]) for number in told},
        figures=figures,
        interval=_intervals(right, sides, truth, figures) or None,
        reliability={side.name: side.curve for side in sides if side.curve} or None,
    )


def _by_patient(
    probabilities: NDArray[Any], truth: NDArray[Any], patients: Sequence[str]
) -> tuple[Floats, NDArray[np.int64]]:
    """Mean probabilities (units, C) and class (units,) of each patient with a label."""
    radiographs: dict[tuple[str, int], list[int]] = defaultdict(list)
    for radiograph, unit in enumerate(zip(patients, truth.tolist(), strict=True)):
        radiographs[unit].append(radiograph)
    units = sorted(radiographs)
    means = [np.asarray(probabilities[radiographs[unit]], np.float64).mean(0) for unit in units]
    return np.array(means), np.array([label for _, label in units], np.int64)


class _Side:
    """One class against the rest."""

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
        """Those that can be estimated, each of the resamples that have some of either kind."""
        weights = with_both(weights[:, self._order], self._positive)
        found = list(curve_figures(self._predicted, self._positive, weights, self._specificity))
        if self._starts is not None:
            found.append(calibration_errors(self._predicted, self._positive, weights, self._starts))
        for figure, values in zip(CLASS_FIGURES, found, strict=False):
            yield class_figure(figure, self.name), values


def _figures(
    right: NDArray[Any], sides: Sequence[_Side], weights: NDArray[Any]
) -> Iterator[tuple[str, Floats]]:
    yield ACCURACY, weights @ right / weights.sum(1)
    for side in sides:
        yield from side.figures(weights)


def _intervals(
    right: NDArray[Any],
    sides: Sequence[_Side],
    truth: NDArray[Any],
    figures: Mapping[str, float | None],
) -> dict[str, list[float]]:
    """Of the figures that at least two patients of the class and two others stand behind.

    A resample is less calibrated than the patients themselves, so that an error's draws lie above
    it: they are turned about it (the basic interval; Davison & Hinkley, Bootstrap Methods and Their
    Application, 1997, eq. 5.6).
    """
    if len(truth) < 2:
        return {}
    generator = np.random.default_rng(0)
    sides = [side for side in sides if side.fewest > 1]
    draws: dict[str, list[Floats]] = defaultdict(list)
    for _ in range(10):
        weights = resample(len(truth), RESAMPLES // 10, generator)
        for name, values in _figures(right, sides, weights):
            draws[name].append(values)
    found = {name: np.concatenate(parts) for name, parts in draws.items()}
    for name, values in found.items():
        if name.startswith(CALIBRATION_ERROR):
            found[name] = 2 * (figures[name] or 0.0) - values
    return {name: interval(values) for name, values in found.items()}
