"""Reads scores from `result.json` and `rounds.jsonl`.

A score holds figures. One of them, or their mean, is the headline by which models are compared and
selected.
"""

from collections.abc import Mapping
from typing import Any

from consortium.protocol.metrics import MetricSpec, ScoreSpec
from consortium.tasks.registry import parse_settings

Score = Mapping[str, Any]


def figures_of(score: Score | None) -> Mapping[str, float | None]:
    """All figures of a score; empty if the score is withheld or missing."""
    return (score or {}).get("figures") or {}


def spec_of(result: Mapping[str, Any]) -> ScoreSpec:
    """The figures of a run's scores.

    Args:
        result: content of `result.json`.
    """
    return parse_settings(result["settings"], "result.json").scored


def value_of(
    score: Score | None, spec: ScoreSpec, metric: MetricSpec | None = None
) -> float | None:
    """One figure of a score, or its headline; None if there is none."""
    figures = figures_of(score)
    return spec.headline(figures) if metric is None else figures.get(metric.name)
