"""How scores are read from `result.json` and `rounds.jsonl`.

A score holds figures. One of them, or their mean, is the headline by which models are compared and
chosen.
"""

from collections.abc import Mapping
from typing import Any

from consortium.protocol.metrics import headline

Score = Mapping[str, Any]


def figures_of(score: Score | None) -> Mapping[str, float | None]:
    """All figures of a score; none where it was withheld or not made."""
    found: Mapping[str, float | None] = (score or {}).get("dice") or {}
    return found or (score or {}).get("figures") or {}


def value_of(score: Score | None, figure: str | None = None) -> float | None:
    """One figure of a score, or its headline; None where there is none."""
    figures = figures_of(score)
    if figure is not None:
        return figures.get(figure)
    if score and score.get("dice"):
        values: Mapping[str, float] = score["dice"]
        return sum(values.values()) / len(values)
    return headline(figures)
