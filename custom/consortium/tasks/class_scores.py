"""How well patients are classified: figures of a class against the rest, with intervals.

Every figure is computed for many weights of the patients at once, so that a bootstrap needs no loop
over its resamples. Nothing here knows where the probabilities come from.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from consortium.protocol.metrics import CLASS_FIGURES, FIGURES, Classification, radiograph_figures
from consortium.tasks.segmentation.scores import summarise

RESAMPLES = 2_000
"""Of an interval of two classes."""

RADIOGRAPH_RESAMPLES = 1_000
"""Of an interval of X-rays, which have many figures; drawn in ten parts, to spare memory."""

CUT = 0.5
"""The probability above which the second class is predicted."""

MOST_BINS = 10
LEAST_IN_BIN = 10
"""Patients in a bin of a reliability curve, and twice the smallest group that may leave."""

Floats = NDArray[np.float64]
Curve = list[list[int | float]]


class CurveFigures(NamedTuple):
    """Of one class against the rest, each (resamples,)."""

    auroc: Floats
    average_precision: Floats
    sensitivity: Floats


def curve_figures(
    scores: NDArray[Any], positive: NDArray[Any], weights: NDArray[Any], specificity: float
) -> CurveFigures:
    """What is read from the ROC and the precision-recall curve; patients of one score go together.

    AUROC is the probability that a positive patient is given more than a negative one, ties
    counting half (Hanley & McNeil, Radiology 1982); average precision the sum of precision times
    the gain in recall, down the scores, as scikit-learn defines it; sensitivity the largest one
    of a cut at which the specificity is at least the one that is asked for.

    Args:
        scores: of the class (n,).
        positive: whether a patient is of the class (n,).
        weights: how often a patient counts (resamples, n); some of either kind in every row.
        specificity: 0 to 1.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    weights, kind = np.asarray(weights, np.float64)[:, order], positive[order]
    true = np.cumsum(weights * kind, axis=1)[:, ends]
    false = np.cumsum(weights * ~kind, axis=1)[:, ends]
    positives, negatives = true[:, -1], false[:, -1]
    gain, loss = np.diff(true, prepend=0.0), np.diff(false, prepend=0.0)
    area = (loss * (true - gain / 2)).sum(1) / (positives * negatives)
    found = np.maximum(true + false, np.finfo(float).tiny)  # none yet: nothing gained either
    precision = (gain * true / found).sum(1) / positives
    # Of the right negatives, as 1 - 0.9 is less than a tenth.
    enough = (negatives[:, None] - false) / negatives[:, None] >= specificity
    sensitivity = np.where(enough, true, 0.0).max(1) / positives
    return CurveFigures(*(np.clip(each, 0.0, 1.0) for each in (area, precision, sensitivity)))


def auroc(probabilities: NDArray[Any], truth: NDArray[Any]) -> float | None:
    """Probability that a patient of class 1 is given more than one of class 0; ties count half.

    Args:
        probabilities: of class 1 (patients,).
        truth: 0 or 1 (patients,).

    Returns:
        None with patients of one class only.
    """
    if len(set(truth.tolist())) < 2:
        return None
    once = np.ones((1, len(truth)))
    return float(curve_figures(probabilities, truth == 1, once, 0.5).auroc[0])


def resample(patients: int, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """How often each patient is drawn, whatever its class (count, patients).

    How many of each class varies as it does from one sample of patients to another, for accuracy,
    precision and calibration depend on it.

    Args:
        patients: one at least.
        count: of resamples.
        generator: of the randomness.
    """
    return generator.multinomial(patients, np.full(patients, 1 / patients), count)


def with_both(weights: NDArray[Any], positive: NDArray[Any]) -> NDArray[Any]:
    """The resamples that have some of either kind, without which a class has no figures.

    Args:
        weights: how often a patient counts (resamples, n).
        positive: whether a patient is of the class (n,).
    """
    return weights[weights[:, positive].any(1) & weights[:, ~positive].any(1)]


def interval(draws: NDArray[Any]) -> list[float]:
    """The 95 % percentile interval (Efron & Tibshirani, 1993, chapter 13) of a bootstrap."""
    return [min(1.0, max(0.0, float(end))) for end in np.percentile(draws, [2.5, 97.5])]


def bin_starts(predicted: NDArray[Any], smallest_group: int) -> NDArray[np.int64] | None:
    """Where bins of equal mass start (Nguyen & O'Connor, EMNLP 2015); equals stay in one bin.

    Args:
        predicted: of one class, sorted upwards (n,).
        smallest_group: a bin has twice as many patients at least.

    Returns:
        From 0 on; None where the patients do not fill two bins.
    """
    patients, least = len(predicted), max(LEAST_IN_BIN, 2 * smallest_group)
    count = min(MOST_BINS, patients // least)
    if count < 2:
        return None
    ends = np.append(np.flatnonzero(np.diff(predicted)) + 1, patients)
    starts = [0]
    for number in range(1, count):
        start = int(ends[np.searchsorted(ends, number * patients // count)])
        if start - starts[-1] >= least and patients - start >= least:
            starts.append(start)
    return np.array(starts)


def calibration_errors(
    predicted: NDArray[Any],
    positive: NDArray[Any],
    weights: NDArray[Any],
    starts: NDArray[Any],
) -> Floats:
    """The expected calibration error of one class's probability (Naeini et al., AAAI 2015).

    The mean over patients of the distance, in their bin, between the mean probability and the
    share of the class. Few patients make it too large, and a resample of them more so.

    Args:
        predicted: sorted upwards (n,).
        positive: whether a patient is of the class (n,).
        weights: how often a patient counts (resamples, n).
        starts: of the bins, see `bin_starts`.
    """
    apart = np.add.reduceat(weights * (predicted - positive), starts, axis=1)
    errors: Floats = np.abs(apart).sum(1) / np.asarray(weights).sum(1)
    return errors.clip(0.0, 1.0)


def reliability(predicted: NDArray[Any], positive: NDArray[Any], starts: NDArray[Any]) -> Curve:
    """For each bin the mean probability, the share of the class and the number of patients.

    Args:
        predicted: sorted upwards (n,).
        positive: whether a patient is of the class (n,).
        starts: of the bins, see `bin_starts`.
    """
    sizes = np.diff(np.append(starts, len(predicted)))
    means = np.clip(np.add.reduceat(predicted, starts) / sizes, 0.0, 1.0)
    shares = np.add.reduceat(positive.astype(np.float64), starts) / sizes
    return [
        [mean, share, size]
        for mean, share, size in zip(means.tolist(), shares.tolist(), sizes.tolist(), strict=True)
    ]


def classify(
    probabilities: NDArray[Any],
    truth: NDArray[Any],
    classes: Sequence[str],
    smallest_group: int,
) -> tuple[float, Classification]:
    """The accuracy, for the hospital's own use, and the score of which it is a part that may leave.

    Args:
        probabilities: of class 1 (patients,), of one patient at least.
        truth: 0 or 1 (patients,).
        classes: their names.
        smallest_group: a score over fewer patients, or over fewer of a class, is withheld.
    """
    right = (probabilities > CUT) == (truth == 1)
    value = float(right.mean())
    support = {name: int((truth == number).sum()) for number, name in enumerate(classes)}
    if len(truth) < smallest_group:
        return value, Classification(withheld=f"fewer than {smallest_group} patients")
    if smallest_group > 1 and min(support.values()) < smallest_group:
        return value, Classification(withheld=f"fewer than {smallest_group} patients of a class")
    figures: dict[str, float | None] = {FIGURES[0]: value, FIGURES[1]: auroc(probabilities, truth)}
    intervals = {}
    summary = summarise(right.astype(float).tolist())
    if summary.interval is not None:
        intervals[FIGURES[0]] = list(summary.interval)
    if figures[FIGURES[1]] is not None and min(support.values()) > 1:
        weights = resample(len(truth), RESAMPLES, np.random.default_rng(0))
        weights = with_both(weights, truth == 1)
        draws = curve_figures(probabilities, truth == 1, weights, 0.5)
        intervals[FIGURES[1]] = interval(draws.auroc)
    return value, Classification(
        patients=len(truth), support=support, figures=figures, interval=intervals or None
    )


def classify_radiographs(
    probabilities: NDArray[Any],
    truth: NDArray[Any],
    patients: Sequence[str],
    classes: Sequence[str],
    smallest_group: int,
    *,
    specificity: float,
) -> tuple[float, Classification]:
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
        return value, Classification(withheld=f"fewer than {smallest_group} patients of a class")
    kept = np.isin(truth, told)
    means, truth = means[kept], truth[kept]
    sides = [
        _Side(means[:, number], truth == number, classes[number], smallest_group, specificity)
        for number in told
        if len(told) > 1
    ]
    right = means.argmax(1) == truth
    figures: dict[str, float | None] = dict.fromkeys(radiograph_figures(classes))
    for name, values in _figures(right, sides, np.ones((1, len(truth)))):
        figures[name] = float(values[0])
    return value, Classification(
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
            yield f"{figure}, {self.name}", values


def _figures(
    right: NDArray[Any], sides: Sequence[_Side], weights: NDArray[Any]
) -> Iterator[tuple[str, Floats]]:
    yield FIGURES[0], weights @ right / weights.sum(1)
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
        weights = resample(len(truth), RADIOGRAPH_RESAMPLES // 10, generator)
        for name, values in _figures(right, sides, weights):
            draws[name].append(values)
    found = {name: np.concatenate(parts) for name, parts in draws.items()}
    for name, values in found.items():
        if name.startswith(CLASS_FIGURES[3]):
            found[name] = 2 * (figures[name] or 0.0) - values
    return {name: interval(values) for name, values in found.items()}
