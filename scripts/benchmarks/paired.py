"""What two models' scores on the same patients say about their difference.

Patients are drawn with replacement within each hospital, so that every resample has as many of each
hospital as there are (stratified percentile bootstrap; Efron & Tibshirani, An Introduction to the
Bootstrap, 1993, chapters 8 and 13). What the intervals leave out: that another training set, or
another seed beyond those averaged, would have given other models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 20_000


@dataclass(frozen=True, slots=True)
class Difference:
    """First less second, in mean over patients.

    Attributes:
        mean: over the patients.
        patients: number.
        draws: means of the resamples, sorted.
    """

    mean: float
    patients: int
    draws: NDArray[np.float64]

    def lower(self, level: float = 0.95) -> float:
        """One-sided lower bound."""
        return float(np.quantile(self.draws, 1 - level))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Two-sided interval."""
        low, high = np.quantile(self.draws, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    @property
    def p(self) -> float:
        """Two-sided p-value of no difference: the smallest level whose interval leaves 0 out."""
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
        ValueError: they were not scored on the same patients.
    """
    if first.keys() != second.keys() or not first:
        raise ValueError("the two are not scored on the same patients")
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
    """Intervals of a family, each as wide as Holm's procedure asks (Scand J Stat 6, 1979).

    The comparison with the k-th smallest p-value of m gets the level 1 - (1 - level) / (m - k + 1),
    and never a narrower one than a comparison before it: an interval that leaves 0 out is a
    rejection that keeps the family's error.

    Args:
        differences: of the family.
        level: of the family.

    Returns:
        Intervals in the order given.
    """
    order = sorted(range(len(differences)), key=lambda index: differences[index].p)
    intervals: dict[int, tuple[float, float]] = {}
    stopped = None
    for rank, index in enumerate(order):
        # After the first that is not rejected, no later one may be: they keep its level.
        share = (1 - level) / (len(differences) - (rank if stopped is None else stopped))
        intervals[index] = differences[index].interval(1 - share)
        if stopped is None and intervals[index][0] <= 0 <= intervals[index][1]:
            stopped = rank
    return [intervals[index] for index in range(len(differences))]
