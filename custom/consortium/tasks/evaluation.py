"""What `consortium evaluate` writes and prints, whatever the task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from consortium.protocol.metrics import CLASS_FIGURES, Classification

ALL = "all"
"""What the patients of all hospitals together are called."""

FEW = 10
"""Patients of a class, and of the others, below which a figure of it only describes them."""


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
    hospitals: Mapping[str, Classification],
    total: Classification,
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


def with_all(
    hospitals: Mapping[str, Classification], total: Classification
) -> dict[str, Classification]:
    """The scores that a table shows: the total where there are several hospitals."""
    return {**hospitals, **({ALL: total} if len(hospitals) > 1 else {})}


def estimate(score: Classification, figure: str) -> str:
    """A figure with its interval, for a table.

    Args:
        score: that holds it.
        figure: its name.
    """
    value, interval = (score.figures or {}).get(figure), (score.interval or {}).get(figure)
    if value is None:
        return "not estimable"
    text = f"{value:.3f}"
    if interval is not None:
        text += " [{:.3f}, {:.3f}]".format(*interval)
    return text + (", descriptive" if descriptive(score.model_dump(), figure) else "")


def parts_of(figure: str) -> tuple[str, str]:
    """What a figure is and the class of X-rays it is of, empty where it is not of one."""
    what, _, name = figure.partition(", ")
    return (what, name) if what in CLASS_FIGURES else (figure, "")


def descriptive(score: Mapping[str, Any], figure: str) -> bool:
    """Whether a class's figure says something of these patients and little of any others."""
    name = parts_of(figure)[1]
    support: Mapping[str, int] = score.get("support") or {}
    of_class = support.get(name, 0)
    return bool(name) and min(of_class, sum(support.values()) - of_class) < FEW
