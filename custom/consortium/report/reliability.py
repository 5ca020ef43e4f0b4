"""Reliability curves side by side: of what a model predicts, how much there is.

A hospital and a class have a curve where the hospital sent one; the diagonal is a model whose
probabilities are shares.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SIDE = 160.0
"""Of a drawing, in its units."""

_LARGEST = 7.0  # radius of a curve's largest dot


@dataclass(frozen=True, slots=True)
class Reliability:
    """One curve.

    Attributes:
        hospital: whose patients they are.
        line: path of the curve.
        dots: x, y and radius of each bin; areas are as the numbers of patients.
        told: how many bins and patients there are.
        values: all of them in words.
    """

    hospital: str
    line: str
    dots: list[tuple[float, float, float]]
    told: str
    values: str


def draw_reliability(hospitals: Sequence[Mapping[str, Any]]) -> dict[str, list[Reliability]]:
    """The curves of the shared model, by class.

    Args:
        hospitals: of `result.json`.
    """
    drawn: dict[str, list[Reliability]] = {}
    for row in hospitals:
        for name, bins in ((row.get("federated") or {}).get("reliability") or {}).items():
            drawn.setdefault(name, []).append(_draw(row["name"], bins))
    return drawn


def _draw(hospital: str, bins: Sequence[Sequence[float]]) -> Reliability:
    sizes = [int(patients) for _, _, patients in bins]
    dots = [
        (
            round(SIDE * predicted, 1),
            round(SIDE * (1 - observed), 1),
            round(_LARGEST * (patients / max(sizes)) ** 0.5, 1),
        )
        for predicted, observed, patients in bins
    ]
    least, most = min(sizes), max(sizes)
    each = f"{least} to {most}" if least < most else f"{most}"
    return Reliability(
        hospital=hospital,
        line="M" + "L".join(f"{x:g},{y:g}" for x, y, _ in dots),
        dots=dots,
        told=f"{len(bins)} {'group' if len(bins) == 1 else 'groups'} of {each} patients",
        values="; ".join(
            f"predicted {predicted:.2f}, observed {observed:.2f} ({patients} patients)"
            for predicted, observed, patients in bins
        ),
    )
