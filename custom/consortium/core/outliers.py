"""Cases that differ strongly from the other cases of the same hospital.

A value is an outlier if its logarithm is further from the median than 3.5 robust standard
deviations, the modified z-score of Iglewicz and Hoaglin (How to Detect and Handle Outliers, ASQC
1993): `0.6745 |x - median| / MAD > 3.5`. Written as a distance, `|x - median| > 3.5 MAD / 0.6745`,
it needs no division and gets a floor: a factor below which nobody would call a case odd. If most
values are equal, the MAD is 0 and the floor alone decides.

If many cases differ, they are not outliers but a second protocol; one finding then reports them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from consortium.core.findings import Finding, warning

MIN_CASES = 8
CUTOFF = 3.5
MAX_SHARE = 0.2
"""Share of a hospital's cases above which one finding reports them all."""

SPACING_FACTOR = 1.5
SIZE_FACTOR = 2.0
INTENSITY_FACTOR = 4.0


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """Facts about a case's image that the checks keep.

    Attributes:
        patient: id of the patient.
        file: path relative to the hospital's folder.
        size: voxels along x, y and z.
        spacing: mm along x, y and z.
        spreads: standard deviation of each channel; empty if the channels are not as declared.
        digest: hash of shape and voxels.
    """

    patient: str
    file: str
    size: tuple[int, ...]
    spacing: tuple[float, ...]
    spreads: tuple[float, ...]
    digest: bytes


def far_from_median(values: Sequence[float], factor: float) -> tuple[float, dict[int, float]]:
    """Finds the values that are far from the others on a logarithmic scale.

    Args:
        values: any numbers; those that are not positive and finite are left out.
        factor: a value between the median divided by it and the median times it is never far.

    Returns:
        The median, and the distance of the logarithms by position of each value that is far. With
        fewer than `MIN_CASES` values none is.
    """
    logs = np.array([math.log(v) if 0 < v < math.inf else math.nan for v in values])
    known = logs[np.isfinite(logs)]
    if known.size < MIN_CASES:
        return math.nan, {}
    median = float(np.median(known))
    mad = float(np.median(np.abs(known - median)))
    limit = max(CUTOFF * mad / 0.6745, math.log(factor))
    distances = np.abs(logs - median)
    far = np.flatnonzero(distances > limit)
    return math.exp(median), {int(i): float(distances[i]) for i in far}


def find_outliers(images: Sequence[ImageFacts], channels: Sequence[str]) -> list[Finding]:
    """Reports `spacing-outlier`, `size-outlier` and `intensity-outlier`, each once a case at most.

    Args:
        images: all readable images of the hospital.
        channels: names of the channels.
    """
    axes = "xyz"
    spacing = [
        _Measure(f"spacing along {axis}", " mm", [image.spacing[i] for image in images])
        for i, axis in enumerate(axes)
    ]
    size = [
        _Measure(f"size along {axis}", " voxels", [image.size[i] for image in images])
        for i, axis in enumerate(axes)
    ]
    spread = [
        _Measure(
            f"standard deviation of {name}",
            "",
            [image.spreads[i] if image.spreads else math.nan for image in images],
        )
        for i, name in enumerate(channels)
    ]
    return [
        *_report("spacing-outlier", images, spacing, SPACING_FACTOR),
        *_report("size-outlier", images, size, SIZE_FACTOR),
        *_report("intensity-outlier", images, spread, INTENSITY_FACTOR),
    ]


@dataclass(frozen=True, slots=True)
class _Measure:
    """One number of each image."""

    name: str
    unit: str
    values: Sequence[float]

    def describe(self, i: int, median: float) -> str:
        own, usual = (
            f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
            for value in (self.values[i], median)
        )
        return f"{self.name} is {own}{self.unit}, usual here {usual}{self.unit}"


def _report(
    code: str, images: Sequence[ImageFacts], measures: Sequence[_Measure], factor: float
) -> list[Finding]:
    details: dict[int, list[str]] = {}
    furthest = (0.0, "")
    for measure in measures:
        median, far = far_from_median(measure.values, factor)
        for i, distance in far.items():
            detail = measure.describe(i, median)
            details.setdefault(i, []).append(detail)
            furthest = max(furthest, (distance, f"{images[i].file}: {detail}"))
    if len(details) > MAX_SHARE * len(images):
        summary = f"{len(details)} of {len(images)} images differ from the rest"
        return [warning(code, "", f"{summary}, most of all {furthest[1]}")]
    return [warning(code, images[i].file, "; ".join(details[i])) for i in sorted(details)]
