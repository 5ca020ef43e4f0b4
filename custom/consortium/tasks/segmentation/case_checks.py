"""The checks of one case: an image with its mask. Both files are read once and forgotten."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consortium.core.findings import Finding, error, warning
from consortium.core.outliers import ImageFacts
from consortium.imaging.grids import Volume, corners_apart, on_grid
from consortium.imaging.volumes import Summary, read_image, read_mask, summarise
from consortium.tasks.segmentation.datalist import Case, Datalist
from consortium.tasks.segmentation.settings import Data

_SHOWN = 5
_MASK_AXES = {3: "x, y, slice"}
_IMAGE_AXES = _MASK_AXES | {4: "x, y, slice, channel"}


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What the checks of a case give.

    Attributes:
        findings: what is wrong with it.
        image: what is needed to compare it with the other cases; None where it is unusable.
        labels: values that the mask holds, 0 left out.
    """

    findings: tuple[Finding, ...]
    image: ImageFacts | None
    labels: frozenset[int]


def check_case(case: Case, datalist: Datalist, data: Data | None) -> CaseResult:
    """Checks one case; see `consortium.tasks.segmentation.checks` for the codes."""
    findings: list[Finding] = []
    image = _usable(read_image(datalist.folder, case.image), _IMAGE_AXES, findings)
    if image is None and case.label.suffix.lower() == ".dcm":
        # A segmentation stores few slices, and is a mask on its image's grid alone.
        return CaseResult(tuple(findings), None, frozenset())
    facts = _check_image(image, case.patient, datalist.channels, findings) if image else None
    grid = (image.voxels.shape[:3], image.affine) if image else None
    reference = image.reference if image else ""
    del image  # so that image and mask are not held together
    read = read_mask(
        datalist.folder, case.label, case.values, *(grid or ((), np.eye(4))), reference
    )
    mask = _usable(read, _MASK_AXES, findings)
    labels = _check_mask(mask, datalist, data, findings) if mask else frozenset[int]()
    if mask and grid:
        findings += _check_grid(*grid, mask)
    return CaseResult(tuple(findings), facts, labels)


def _usable(
    volume: Volume | Finding, wanted: dict[int, str], findings: list[Finding]
) -> Volume | None:
    """The volume if it has voxels along the right number of axes; else notes why not."""
    if isinstance(volume, Finding):
        findings.append(volume)
        return None
    findings += volume.notes
    if volume.voxels.ndim in wanted and volume.voxels.size:
        return volume
    detail = f"{_by(volume.voxels.shape)} voxels; wanted are {' or '.join(wanted.values())}"
    findings.append(error("wrong-dimensions", volume.file, detail))
    return None


def _check_image(
    image: Volume, patient: str, names: tuple[str, ...], findings: list[Finding]
) -> ImageFacts:
    voxels = image.voxels[..., np.newaxis] if image.voxels.ndim == 3 else image.voxels
    channels = [summarise(voxels[..., i]) for i in range(voxels.shape[3])]
    as_declared = len(channels) == len(names)
    if not as_declared:
        detail = f"has {_count(len(channels), 'channel')}, dataset.json names {len(names)}"
        findings.append(error("wrong-channels", image.file, detail))
        names = tuple(f"channel {i}" for i in range(len(channels)))
    if bad := sum(channel.not_finite for channel in channels):
        detail = f"{_count(bad, 'voxel')} of {voxels.size} NaN or infinite"
        findings.append(error("not-finite", image.file, detail))
    for channel, name in zip(channels, names, strict=True):
        if channel.constant:
            findings.append(warning("constant-image", image.file, f"{name} has one value only"))
    findings += _copies(image.file, channels, names)
    digest = hashlib.sha256(repr(voxels.shape).encode())
    for channel in channels:
        digest.update(channel.digest)
    return ImageFacts(
        patient,
        image.file,
        voxels.shape[:3],
        image.spacing,
        tuple(channel.spread for channel in channels) if as_declared else (),
        digest.digest(),
    )


def _copies(file: str, channels: Sequence[Summary], names: Sequence[str]) -> list[Finding]:
    same: defaultdict[bytes, list[str]] = defaultdict(list)
    for channel, name in zip(channels, names, strict=True):
        if not channel.constant:
            same[channel.digest].append(name)
    return [
        warning("duplicate-channel", file, f"{', '.join(group[:-1])} and {group[-1]} are equal")
        for group in same.values()
        if len(group) > 1
    ]


def _check_mask(
    mask: Volume, datalist: Datalist, data: Data | None, findings: list[Finding]
) -> frozenset[int]:
    counts, fractions, not_finite = _count_labels(mask.voxels)
    of = f"of {mask.voxels.size}"
    if not_finite:
        detail = f"{_count(not_finite, 'voxel')} {of} NaN or infinite"
        findings.append(error("not-finite", mask.file, detail))
    if fractions:
        detail = f"{_count(fractions, 'voxel')} {of} not a whole number"
        findings.append(error("non-integer-label", mask.file, detail))
    if not counts and not fractions and not not_finite:
        findings.append(warning("empty-mask", mask.file, "no voxel is labelled"))
    known = {"dataset.json": set(datalist.labels)}
    if data:
        known["the job"] = {value for values in data.labels.values() for value in values}
    told: set[int] = set()
    for source, values in known.items():
        unknown = {v: n for v, n in sorted(counts.items()) if v not in values | told}
        told |= set(unknown)
        if unknown:
            detail = f"{_values(unknown)}; {source} knows {_list(sorted(values | {0}))}"
            findings.append(error("unknown-label", mask.file, detail))
    return frozenset(counts)


def _count_labels(voxels: NDArray[Any]) -> tuple[Counter[int], int, int]:
    """Voxels of each whole value but 0, voxels of fractional values, voxels not finite."""
    counts: Counter[int] = Counter()
    fractions = not_finite = 0
    for plane in np.moveaxis(voxels, -1, 0):
        values = plane[plane != 0]
        if values.dtype.kind == "f":
            finite = values[np.isfinite(values)]
            whole = finite[finite == np.rint(finite)]
            not_finite += values.size - finite.size
            fractions += finite.size - whole.size
            values = whole
        distinct, number = np.unique(values, return_counts=True)
        counts.update(dict(zip(map(int, distinct), map(int, number), strict=True)))
    return counts, fractions, not_finite


def _check_grid(shape: tuple[int, ...], affine: NDArray[np.float64], mask: Volume) -> list[Finding]:
    if on_grid(mask.voxels, mask.affine, shape, affine) is not None:
        return []
    if shape != mask.voxels.shape:
        detail = f"the mask is {_by(mask.voxels.shape)}, its image {_by(shape)}"
        return [error("shape-mismatch", mask.file, detail)]
    apart = corners_apart(shape, mask.affine, affine)
    detail = f"mask and image lie up to {apart:.3g} mm apart (their affines differ)"
    return [error("affine-mismatch", mask.file, detail)]


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _list(values: Sequence[int]) -> str:
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return ", ".join(map(str, values[:_SHOWN])) + more


def _values(unknown: dict[int, int]) -> str:
    shown = [f"{value} ({_count(n, 'voxel')})" for value, n in list(unknown.items())[:_SHOWN]]
    more = f" and {len(unknown) - _SHOWN} more values" if len(unknown) > _SHOWN else ""
    return f"value {', '.join(shown)}{more}"
