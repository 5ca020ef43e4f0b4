"""Scores the prediction of an outcome of two classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consortium.protocol.metrics import Score
from consortium.tasks.scores import auroc, curve_figures, interval, resample, summarise, with_both
from consortium.tasks.tabular.settings import ACCURACY, AUROC

RESAMPLES = 2_000
"""Bootstrap resamples of an interval."""

THRESHOLD = 0.5
"""The probability above which the second class is predicted."""


def classify(
    probabilities: NDArray[Any],
    truth: NDArray[Any],
    classes: Sequence[str],
    smallest_group: int,
) -> tuple[float, Score]:
    """Gives the accuracy, for the hospital's own use, and the score that may leave the hospital.

    Args:
        probabilities: of class 1 (patients,), for one patient at least.
        truth: 0 or 1 (patients,).
        classes: names of the two classes.
        smallest_group: a score over fewer patients, or over fewer of a class, is withheld.
    """
    correct = (probabilities > THRESHOLD) == (truth == 1)
    value = float(correct.mean())
    support = {name: int((truth == number).sum()) for number, name in enumerate(classes)}
    if len(truth) < smallest_group:
        return value, Score(withheld=f"fewer than {smallest_group} patients")
    if smallest_group > 1 and min(support.values()) < smallest_group:
        return value, Score(withheld=f"fewer than {smallest_group} patients of a class")
    figures: dict[str, float | None] = {ACCURACY: value, AUROC: auroc(probabilities, truth)}
    intervals = {}
    summary = summarise(correct.astype(float).tolist())
    if summary.interval is not None:
        intervals[ACCURACY] = list(summary.interval)
    if figures[AUROC] is not None and min(support.values()) > 1:
        weights = resample(len(truth), RESAMPLES, np.random.default_rng(0))
        weights = with_both(weights, truth == 1)
        draws = curve_figures(probabilities, truth == 1, weights, 0.5)
        intervals[AUROC] = interval(draws.auroc)
    return value, Score(
        patients=len(truth), support=support, figures=figures, interval=intervals or None
    )
