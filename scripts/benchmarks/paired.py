"""Compares two models by their scores on the same patients.

Patients are drawn with replacement within each hospital, so that every resample has the same number
of patients of each hospital (stratified percentile bootstrap; Efron & Tibshirani, An Introduction
to the Bootstrap, 1993, chapters 8 and 13). The intervals do not include the variance of training
sets and of seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 20_000


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean difference over patients, first less second.

    Attributes:
        mean: over the patients.
        patients: number of patients.
        draws: means of the resamples, sorted.
    """

    mean: float
    patients: int
    draws: NDArray[np.float64]

    def lower(self, level: float = 0.95) -> float:
        """Returns the one-sided lower bound."""
        return float(np.quantile(self.draws, 1 - level))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Returns the two-sided interval."""
        low, high = np.quantile(self.draws, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    @property
    def p(self) -> float:
        """Two-sided p-value of no difference: the smallest level whose interval excludes 0."""
        below = (1 + int((self.draws <= 0).sum())) / (1 + len(self.draws))
        above = (1 + int((self.draws >= 0).sum())) / (1 + len(self.draws))
        return min(1.0, 2 * min(below, above))


def paired_difference(
    first: Mapping[str, float],
    second: Mapping[str, float],
    hospital_of: Mapping[str, str],
    seed: int = 0,
) -> Difference:
    """Compares two models on the patients that both were scored on.

    Args:
        first: score of each patient.
        second: score of the same patients.
        hospital_of: hospital of each patient; the strata.
        seed: of the resampling.

    Raises:
        ValueError: the models were not scored on the same patients.
    """
    if first.keys() != second.keys() or not first:
        raise ValueError("the models are not scored on the same patients")
    groups: dict[str, list[float]] = {}
    for patient in sorted(first):
        groups.setdefault(hospital_of[patient], []).append(first[patient] - second[patient])
    rng = np.random.default_rng(seed)
    total = np.zeros(RESAMPLES)
    for _, values in sorted(groups.items()):
        changes = np.array(values)
        total += changes[rng.integers(len(changes), size=(RESAMPLES, len(changes)))].sum(1)
    mean = float(np.mean([first[patient] - second[patient] for patient in sorted(first)]))
    return Difference(mean, len(first), np.sort(total / len(first)))


def holm_intervals(
    differences: Sequence[Difference], level: float = 0.95
) -> list[tuple[float, float]]:
    """Computes the intervals of a family by Holm's procedure (Scand J Stat 6, 1979).

    The comparison with the k-th smallest p-value of m gets the level 1 - (1 - level) / (m - k + 1).
    After the first interval that contains 0, all later ones keep its level. An interval that
    excludes 0 is a rejection that controls the family-wise error.

    Args:
        differences: the family's comparisons.
        level: of the family.

    Returns:
        Intervals in the order of `differences`.
    """
    order = sorted(range(len(differences)), key=lambda index: differences[index].p)
    intervals: dict[int, tuple[float, float]] = {}
    stopped = None
    for rank, index in enumerate(order):
        # After the first that is not rejected, no later one may be rejected: they keep its level.
        share = (1 - level) / (len(differences) - (rank if stopped is None else stopped))
        intervals[index] = differences[index].interval(1 - share)
        if stopped is None and intervals[index][0] <= 0 <= intervals[index][1]:
            stopped = rank
    return [intervals[index] for index in range(len(differences))]
