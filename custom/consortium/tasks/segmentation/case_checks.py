"""Checks one case: an image with its mask. Each file is read once and not kept in memory."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consortium.core.findings import Finding, error, warning
from consortium.core.outliers import ImageFacts
from consortium.core.plurals import plural
from consortium.imaging.grids import Volume, align_to_grid, corner_distance
from consortium.imaging.volumes import ChannelSummary, read_image, read_mask, summarise_channel
from consortium.tasks.segmentation.datalist import Case, Datalist
from consortium.tasks.segmentation.settings import Data

_SHOWN = 5
_MASK_AXES = {3: "x, y, slice"}
_IMAGE_AXES = _MASK_AXES | {4: "x, y, slice, channel"}


@dataclass(frozen=True, slots=True)
class CaseResult:
    """The result of the checks of one case.

    Attributes:
        findings: the findings.
        image: facts for the comparison with other cases; None if the image is unusable.
        labels: values in the mask, without 0.
    """

    findings: tuple[Finding, ...]
    image: ImageFacts | None
    labels: frozenset[int]


def check_case(case: Case, datalist: Datalist, data: Data | None) -> CaseResult:
    """Checks one case; see `consortium.core.finding_codes` for the codes."""
    findings: list[Finding] = []
    image = _usable(read_image(datalist.folder, case.image), _IMAGE_AXES, findings)
    if image is None and case.label.suffix.lower() == ".dcm":
        # A segmentation stores few slices: without the image's grid there is no mask.
        return CaseResult(tuple(findings), None, frozenset())
    facts = _check_image(image, case.patient, datalist.channels, findings) if image else None
    grid = (image.voxels.shape[:3], image.affine) if image else None
    reference = image.reference if image else ""
    del image  # so that image and mask are not held together
    mask_or_finding = read_mask(
        datalist.folder, case.label, case.values, *(grid or ((), np.eye(4))), reference
    )
    mask = _usable(mask_or_finding, _MASK_AXES, findings)
    labels = _check_mask(mask, datalist, data, findings) if mask else frozenset[int]()
    if mask and grid:
        findings += _check_grid(*grid, mask)
    return CaseResult(tuple(findings), facts, labels)


def _usable(
    volume: Volume | Finding, axes: dict[int, str], findings: list[Finding]
) -> Volume | None:
    """Returns the volume if it has voxels and a valid number of axes; else adds a finding."""
    if isinstance(volume, Finding):
        findings.append(volume)
        return None
    findings += volume.notes
    if volume.voxels.ndim in axes and volume.voxels.size:
        return volume
    detail = f"{_by(volume.voxels.shape)} voxels; expected {' or '.join(axes.values())}"
    findings.append(error("wrong-dimensions", volume.file, detail))
    return None


def _check_image(
    image: Volume, patient: str, names: tuple[str, ...], findings: list[Finding]
) -> ImageFacts:
    voxels = image.voxels[..., np.newaxis] if image.voxels.ndim == 3 else image.voxels
    channels = [summarise_channel(voxels[..., i]) for i in range(voxels.shape[3])]
    as_declared = len(channels) == len(names)
    if not as_declared:
        detail = f"it has {plural(len(channels), 'channel')}, dataset.json names {len(names)}"
        findings.append(error("wrong-channels", image.file, detail))
        names = tuple(f"channel {i}" for i in range(len(channels)))
    if bad := sum(channel.not_finite for channel in channels):
        detail = f"{plural(bad, 'voxel')} of {voxels.size} are NaN or infinite"
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


def _copies(file: str, channels: Sequence[ChannelSummary], names: Sequence[str]) -> list[Finding]:
    by_digest: defaultdict[bytes, list[str]] = defaultdict(list)
    for channel, name in zip(channels, names, strict=True):
        if not channel.constant:
            by_digest[channel.digest].append(name)
    return [
        warning("duplicate-channel", file, f"{', '.join(group[:-1])} and {group[-1]} are equal")
        for group in by_digest.values()
        if len(group) > 1
    ]


def _check_mask(
    mask: Volume, datalist: Datalist, data: Data | None, findings: list[Finding]
) -> frozenset[int]:
    counts, fractions, not_finite = _count_labels(mask.voxels)
    total = mask.voxels.size
    if not_finite:
        detail = f"{plural(not_finite, 'voxel')} of {total} are NaN or infinite"
        findings.append(error("not-finite", mask.file, detail))
    if fractions:
        detail = f"{plural(fractions, 'voxel')} of {total} are not whole numbers"
        findings.append(error("non-integer-label", mask.file, detail))
    if not counts and not fractions and not not_finite:
        findings.append(warning("empty-mask", mask.file, "no voxel is labelled"))
    known = {"dataset.json": set(datalist.labels)}
    if data:
        known["the job"] = {value for values in data.labels.values() for value in values}
    reported: set[int] = set()
    for source, values in known.items():
        unknown = {v: n for v, n in sorted(counts.items()) if v not in values | reported}
        reported |= set(unknown)
        if unknown:
            detail = f"{_values(unknown)}; {source} knows {_list(sorted(values | {0}))}"
            findings.append(error("unknown-label", mask.file, detail))
    return frozenset(counts)


def _count_labels(voxels: NDArray[Any]) -> tuple[Counter[int], int, int]:
    """Counts the voxels of each whole value except 0, of fractional and of non-finite values."""
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
    if align_to_grid(mask.voxels, mask.affine, shape, affine) is not None:
        return []
    if shape != mask.voxels.shape:
        detail = f"the mask is {_by(mask.voxels.shape)}, its image {_by(shape)}"
        return [error("shape-mismatch", mask.file, detail)]
    distance = corner_distance(shape, mask.affine, affine)
    detail = f"mask and image lie up to {distance:.3g} mm apart (their affines differ)"
    return [error("affine-mismatch", mask.file, detail)]


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _list(values: Sequence[int]) -> str:
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return ", ".join(map(str, values[:_SHOWN])) + more


def _values(unknown: dict[int, int]) -> str:
    shown = [f"{value} ({plural(n, 'voxel')})" for value, n in list(unknown.items())[:_SHOWN]]
    more = f" and {len(unknown) - _SHOWN} more values" if len(unknown) > _SHOWN else ""
    return f"value {', '.join(shown)}{more}"
