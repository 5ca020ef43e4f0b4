"""Describes the confounding probe's result: did the model learn the disease or the hospital?"""

from collections.abc import Mapping
from typing import Any

from consortium.confounding.moments import describe_p
from consortium.protocol.metrics import ScoreSpec
from consortium.report.figures import figures_of, spec_of

_MEANING = {
    "confounded": "The model may have learned the hospital and not the disease.",
    "no sign": "No sign was found that the model learned the hospital instead of the disease.",
    "not estimable": "The probe could not estimate whether the model learned the disease or the"
    " hospital.",
}


def describe_verdict(confounding: Mapping[str, Any]) -> str:
    """The probe's verdict and its reason, in one line."""
    return f"{confounding['verdict']}: {confounding['reason']}"


def describe_confounding(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """Describes the probe's result for the page; None for a run without the probe.

    Args:
        result: content of `result.json`.
    """
    confounding = result.get("confounding")
    if confounding is None:
        return None
    spec = spec_of(result)
    classes = list(spec.classes)
    features = confounding["features"]
    sentence = "Whether the model's features reveal the hospital is not estimable."
    if features is not None:
        sentence = (
            "Among patients with the same label, the model's features tell two hospitals apart with"
            f" an AUC of {features['auc']:.2f} (permutation {describe_p(features['p'])})."
        )
    rows = [
        (
            row["name"],
            [_cell(row["federated"], name, spec) for name in classes],
            [_cell(confounding["without"].get(row["name"]), name, spec) for name in classes],
        )
        for row in result["hospitals"]
    ]
    return {
        "verdict": confounding["verdict"],
        "meaning": _MEANING[confounding["verdict"]],
        "reason": confounding["reason"],
        "features": sentence,
        "classes": classes,
        "rows": rows,
        "left_out": bool(confounding["without"]),
    }


def _cell(
    score: Mapping[str, Any] | None, name: str, spec: ScoreSpec
) -> tuple[str, list[float] | None]:
    """A class's headline figure and its interval; text if there is no figure."""
    if not score:
        return "\u2013", None
    if score["withheld"]:
        return "withheld", None
    metric = spec.headline_of(name)
    value = figures_of(score).get(metric.name) if metric else None
    if metric is None or value is None:
        return "not estimable", None
    return f"{value:.2f}", (score.get("interval") or {}).get(metric.name)
