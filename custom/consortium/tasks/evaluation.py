"""The results that `consortium evaluate` writes and prints, for every task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from consortium.protocol.metrics import MetricSpec, Score, descriptive

ALL = "all"
"""Name of the group of all hospitals' patients."""


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """A table of scores for the terminal.

    Attributes:
        names: titles of the first columns, which hold names.
        figures: titles of the other columns.
        sections: groups of rows, separated by a line.
        notes: lines below the table.
    """

    names: tuple[str, ...]
    figures: tuple[str, ...]
    sections: tuple[Sequence[Sequence[str]], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The scores of a model on the hospitals' patients.

    Attributes:
        scores: scores of each case, of each hospital and of all, as JSON values.
        table: the same scores as a table.
    """

    scores: dict[str, Any]
    table: ScoreTable


def all_scores(
    cases: Sequence[Mapping[str, Any]],
    hospitals: Mapping[str, Score],
    total: Score,
) -> dict[str, Any]:
    """Returns the scores as JSON values.

    Args:
        cases: the result for each patient or X-ray.
        hospitals: the score of each hospital.
        total: the score of all patients.
    """
    return {
        "cases": cases,
        **total.model_dump(),
        "hospitals": {name: score.model_dump() for name, score in hospitals.items()},
    }


def with_all(hospitals: Mapping[str, Score], total: Score) -> dict[str, Score]:
    """The scores that a table shows: each hospital's, and the total if there are several."""
    return {**hospitals, **({ALL: total} if len(hospitals) > 1 else {})}


def estimate(score: Score, metric: MetricSpec) -> str:
    """Formats a figure with its interval for a table.

    Args:
        score: the score that holds the figure.
        metric: the metric of the figure.
    """
    value, interval = (
        (score.figures or {}).get(metric.name),
        (score.interval or {}).get(metric.name),
    )
    if value is None:
        return "not estimable"
    text = f"{value:.3f}"
    if interval is not None:
        text += " [{:.3f}, {:.3f}]".format(*interval)
    return text + (", descriptive" if descriptive(score.support, metric) else "")
