"""Metrics over patients with confidence intervals: means, and metrics of a class against the rest.

Each metric of a class is computed for many weights of the patients at once, so that a bootstrap
needs no loop over its resamples.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MEAN_RESAMPLES = 10_000
"""Number of resamples for the interval of a mean."""

MAX_BINS = 10
MIN_BIN_SIZE = 10
"""Minimum patients in a bin of a reliability curve; at least twice the smallest group."""

Floats = NDArray[np.float64]
Curve = list[list[int | float]]


class CurveFigures(NamedTuple):
    """Metrics of one class against the rest, each (resamples,)."""

    auroc: Floats
    average_precision: Floats
    sensitivity: Floats


def curve_figures(
    scores: NDArray[Any], positive: NDArray[Any], weights: NDArray[Any], specificity: float
) -> CurveFigures:
    """Metrics of the ROC and the precision-recall curve; patients of equal score are one step.

    AUROC is the probability that a positive patient scores higher than a negative one, ties
    counting half (Hanley & McNeil, Radiology 1982). Average precision is the sum of precision times
    the gain in recall, down the scores, as in scikit-learn. Sensitivity is the largest one of all
    thresholds with at least the given specificity.

    Args:
        scores: scores of the class (n,).
        positive: whether a patient is of the class (n,).
        weights: how often a patient counts (resamples, n); both classes in every row.
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
    predicted = np.maximum(true + false, np.finfo(float).tiny)  # 0 where the gain is 0 too
    precision = (gain * true / predicted).sum(1) / positives
    # Compared by true negatives, not false ones: in floating point, 1 - 0.9 is less than 0.1.
    enough = (negatives[:, None] - false) / negatives[:, None] >= specificity
    sensitivity = np.where(enough, true, 0.0).max(1) / positives
    return CurveFigures(*(np.clip(value, 0.0, 1.0) for value in (area, precision, sensitivity)))


def auroc(probabilities: NDArray[Any], truth: NDArray[Any]) -> float | None:
    """Probability that a patient of class 1 scores higher than one of class 0; ties count half.

    Args:
        probabilities: probabilities of class 1 (patients,).
        truth: 0 or 1 (patients,).

    Returns:
        None if all patients are of one class.
    """
    if len(set(truth.tolist())) < 2:
        return None
    once = np.ones((1, len(truth)))
    return float(curve_figures(probabilities, truth == 1, once, 0.5).auroc[0])


def resample(patients: int, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Draws how often each patient counts, regardless of class (count, patients).

    The classes are not stratified, so their sizes vary as they do between samples of patients:
    accuracy, precision and calibration depend on them.

    Args:
        patients: number of patients, at least one.
        count: number of resamples.
        generator: source of randomness.
    """
    return generator.multinomial(patients, np.full(patients, 1 / patients), count)


def with_both(weights: NDArray[Any], positive: NDArray[Any]) -> NDArray[Any]:
    """Selects the resamples with both classes; without both, the metrics are undefined.

    Args:
        weights: how often a patient counts (resamples, n).
        positive: whether a patient is of the class (n,).
    """
    return weights[weights[:, positive].any(1) & weights[:, ~positive].any(1)]


def interval(draws: NDArray[Any]) -> list[float]:
    """The 95 % percentile interval (Efron & Tibshirani, 1993, chapter 13) of a bootstrap."""
    return [min(1.0, max(0.0, float(end))) for end in np.percentile(draws, [2.5, 97.5])]


def bin_starts(predicted: NDArray[Any], smallest_group: int) -> NDArray[np.int64] | None:
    """Starts of bins of equal mass (Nguyen & O'Connor, EMNLP 2015); ties stay in one bin.

    Args:
        predicted: probabilities of one class, ascending (n,).
        smallest_group: a bin has at least twice as many patients.

    Returns:
        Indices, the first 0; None if the patients do not fill two bins.
    """
    patients, least = len(predicted), max(MIN_BIN_SIZE, 2 * smallest_group)
    count = min(MAX_BINS, patients // least)
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

    The mean over patients of the difference, in their bin, between the mean probability and the
    share of the class. It is biased upwards for few patients, and more so for their resamples.

    Args:
        predicted: probabilities of the class, ascending (n,).
        positive: whether a patient is of the class (n,).
        weights: how often a patient counts (resamples, n).
        starts: starts of the bins; see `bin_starts`.
    """
    differences = np.add.reduceat(weights * (predicted - positive), starts, axis=1)
    errors: Floats = np.abs(differences).sum(1) / np.asarray(weights).sum(1)
    return errors.clip(0.0, 1.0)


def reliability(predicted: NDArray[Any], positive: NDArray[Any], starts: NDArray[Any]) -> Curve:
    """The mean probability, the share of the class and the number of patients in each bin.

    Args:
        predicted: probabilities of the class, ascending (n,).
        positive: whether a patient is of the class (n,).
        starts: starts of the bins; see `bin_starts`.
    """
    sizes = np.diff(np.append(starts, len(predicted)))
    means = np.clip(np.add.reduceat(predicted, starts) / sizes, 0.0, 1.0)
    shares = np.add.reduceat(positive.astype(np.float64), starts) / sizes
    return [
        [mean, share, size]
        for mean, share, size in zip(means.tolist(), shares.tolist(), sizes.tolist(), strict=True)
    ]


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """The distribution of a score over patients.

    Attributes:
        cases: number of patients with a score.
        mean: mean score; None without patients.
        median: median score; None without patients.
        interval: 95 % confidence interval of the mean; None for fewer than 2 patients.
    """

    cases: int
    mean: float | None
    median: float | None
    interval: tuple[float, float] | None


def summarise(values: Iterable[float | None], seed: int = 0) -> ScoreSummary:
    """Mean, median and the mean's 95 % interval over patients.

    The interval is the percentile bootstrap over patients (Efron & Tibshirani, An Introduction to
    the Bootstrap, 1993, chapter 13) with 10,000 resamples.

    Args:
        values: one score per patient; None (no distance) is left out.
        seed: seed of the resampling.
    """
    scores = np.array([value for value in values if value is not None], dtype=float)
    if not len(scores):
        return ScoreSummary(0, None, None, None)
    interval = None
    if len(scores) > 1:
        generator = np.random.default_rng(seed)
        means = [
            scores[generator.integers(len(scores), size=(MEAN_RESAMPLES // 10, len(scores)))].mean(
                1
            )
            for _ in range(10)
        ]
        low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
        interval = (float(low), float(high))
    return ScoreSummary(len(scores), float(scores.mean()), float(np.median(scores)), interval)
