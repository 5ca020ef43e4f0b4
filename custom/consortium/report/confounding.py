"""What a run found out about what its model learned: the disease, or the hospital."""

from collections.abc import Mapping
from typing import Any

from consortium.confounding.moments import describe_p
from consortium.protocol.metrics import ScoreSpec
from consortium.report.figures import figures_of, spec_of

_MEANING = {
    "confounded": "The model may have learned the hospital and not the disease.",
    "no sign": "No sign was found that the model learned the hospital instead of the disease.",
    "not estimable": "Whether the model learned the disease or the hospital could not be found"
    " out.",
}


def describe_verdict(found: Mapping[str, Any]) -> str:
    """The verdict and its reason, in one line."""
    return f"{found['verdict']}: {found['reason']}"


def describe_confounding(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """The findings for the page; None for a run that does not ask.

    Args:
        result: content of `result.json`.
    """
    found = result.get("confounding")
    if found is None:
        return None
    spec = spec_of(result)
    classes = list(spec.classes)
    features = found["features"]
    told = "Whether the model's features tell the hospital is not estimable."
    if features is not None:
        told = (
            "Among patients with the same label, the model's features tell two hospitals apart with"
            f" an AUC of {features['auc']:.2f} (permutation {describe_p(features['p'])})."
        )
    rows = [
        (
            row["name"],
            [_cell(row["federated"], name, spec) for name in classes],
            [_cell(found["without"].get(row["name"]), name, spec) for name in classes],
        )
        for row in result["hospitals"]
    ]
    return {
        "verdict": found["verdict"],
        "meaning": _MEANING[found["verdict"]],
        "reason": found["reason"],
        "told": told,
        "classes": classes,
        "rows": rows,
        "left_out": bool(found["without"]),
    }


def _cell(
    score: Mapping[str, Any] | None, name: str, spec: ScoreSpec
) -> tuple[str, list[float] | None]:
    """Headline figure of a class, in words where there is none, and its interval."""
    if not score:
        return "\u2013", None
    if score["withheld"]:
        return "withheld", None
    metric = spec.headline_of(name)
    value = figures_of(score).get(metric.name) if metric else None
    if metric is None or value is None:
        return "not estimable", None
    return f"{value:.2f}", (score.get("interval") or {}).get(metric.name)
