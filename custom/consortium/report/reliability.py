"""Draws reliability curves side by side: the observed share over the predicted probability.

There is a curve for each hospital and class for which the hospital sent one. The diagonal is a
perfectly calibrated model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from consortium.core.plurals import plural

SIDE = 160.0
"""Side of a drawing, in its own units."""

_LARGEST = 7.0  # radius of a curve's largest dot


@dataclass(frozen=True, slots=True)
class Reliability:
    """One curve.

    Attributes:
        hospital: the hospital of the patients.
        line: path of the curve.
        dots: x, y and radius of each bin; areas are proportional to the numbers of patients.
        summary: numbers of bins and patients, in words.
        values: all values, in words.
    """

    hospital: str
    line: str
    dots: list[tuple[float, float, float]]
    summary: str
    values: str


def draw_reliability(hospitals: Sequence[Mapping[str, Any]]) -> dict[str, list[Reliability]]:
    """Draws the curves of the federated model, by class.

    Args:
        hospitals: `hospitals` of `result.json`.
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
    size = f"{least} to {most}" if least < most else f"{most}"
    return Reliability(
        hospital=hospital,
        line="M" + "L".join(f"{x:g},{y:g}" for x, y, _ in dots),
        dots=dots,
        summary=f"{plural(len(bins), 'group')} of {size} {'patient' if most == 1 else 'patients'}",
        values="; ".join(
            f"predicted {predicted:.2f}, observed {observed:.2f}"
            f" ({plural(int(patients), 'patient')})"
            for predicted, observed, patients in bins
        ),
    )
