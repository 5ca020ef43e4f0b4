"""How well an outcome of two classes is predicted."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consortium.protocol.metrics import FIGURES, Classification
from consortium.tasks.scores import auroc, curve_figures, interval, resample, summarise, with_both

RESAMPLES = 2_000
"""Of an interval of two classes."""

CUT = 0.5
"""The probability above which the second class is predicted."""


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
