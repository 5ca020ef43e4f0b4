"""What `consortium evaluate` writes and prints, whatever the task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from consortium.protocol.metrics import MetricSpec, Score, descriptive

ALL = "all"
"""What the patients of all hospitals together are called."""


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """A table for people.

    Attributes:
        names: titles of the first columns, which hold names.
        figures: titles of the other columns.
        sections: rows; a line is drawn between sections.
        notes: lines below the table.
    """

    names: tuple[str, ...]
    figures: tuple[str, ...]
    sections: tuple[Sequence[Sequence[str]], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How good a model is on the patients of hospitals.

    Attributes:
        scores: of every case, of each hospital and of all, as JSON values.
        table: the same for people.
    """

    scores: dict[str, Any]
    table: ScoreTable


def all_scores(
    cases: Sequence[Mapping[str, Any]],
    hospitals: Mapping[str, Score],
    total: Score,
) -> dict[str, Any]:
    """As JSON values.

    Args:
        cases: what is said of each patient or X-ray.
        hospitals: the score of each.
        total: that of all patients.
    """
    return {
        "cases": cases,
        **total.model_dump(),
        "hospitals": {name: score.model_dump() for name, score in hospitals.items()},
    }


def with_all(hospitals: Mapping[str, Score], total: Score) -> dict[str, Score]:
    """The scores that a table shows: the total where there are several hospitals."""
    return {**hospitals, **({ALL: total} if len(hospitals) > 1 else {})}


def estimate(score: Score, metric: MetricSpec) -> str:
    """A figure with its interval, for a table.

    Args:
        score: that holds it.
        metric: the figure.
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
