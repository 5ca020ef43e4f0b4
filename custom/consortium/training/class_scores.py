"""How well patients are classified: accuracy and the area under the ROC curve, with intervals.

Nothing here knows where the probabilities come from.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consortium.metrics import FIGURES, Classification
from consortium.training.scores import summarise

RESAMPLES = 2_000
"""Of an interval."""

CUT = 0.5
"""The probability above which the second class is predicted."""


def auroc(probabilities: NDArray[Any], truth: NDArray[Any]) -> float | None:
    """Probability that a patient of class 1 is given more than one of class 0; ties count half.

    Args:
        probabilities: of class 1 (patients,).
        truth: 0 or 1 (patients,).

    Returns:
        None with patients of one class only.
    """
    above = _above(probabilities, truth)
    return float(above.mean()) if above.size else None


def _above(probabilities: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
    """(class 1, class 0): 1 where the first is given more, a half where it is a tie."""
    ill, well = probabilities[truth == 1][:, None], probabilities[truth == 0][None]
    return np.asarray((ill > well) + 0.5 * (ill == well), np.float64)


def _auroc_interval(above: NDArray[np.float64], seed: int = 0) -> list[float]:
    """95 % percentile bootstrap over patients, as many of each class in every resample."""
    generator = np.random.default_rng(seed)
    ill, well = above.shape
    first, second = (
        generator.multinomial(count, np.full(count, 1 / count), RESAMPLES) for count in (ill, well)
    )
    draws = ((first @ above) * second).sum(1) / (ill * well)
    return [min(1.0, max(0.0, float(end))) for end in np.percentile(draws, [2.5, 97.5])]


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
        intervals[FIGURES[1]] = _auroc_interval(_above(probabilities, truth))
    return value, Classification(
        patients=len(truth), support=support, figures=figures, interval=intervals or None
    )
