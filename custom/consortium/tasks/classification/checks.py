"""The checks of one hospital's X-rays; see `consortium.tasks.segmentation.checks` for the codes.

Bad data raise nothing: they become findings. Nothing is written, and one X-ray is in memory at a
time. What is kept of each is a digest of its values and a thumbnail.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from consortium.core.findings import Finding, error, warning
from consortium.imaging.burnt_text import count_letters
from consortium.imaging.radiographs import Pixels, UnusableRadiograph, read_pixels
from consortium.tasks.classification.dataset import (
    FILE,
    IMAGES,
    LABEL,
    LABELS,
    Choice,
    Listed,
    choose_rows,
    class_numbers,
    missing_columns,
)
from consortium.tasks.classification.settings import ClassificationSettings, Radiographs
from consortium.tasks.split import validation_patients
from consortium.tasks.tables import (
    FEWEST_PATIENTS,
    SIDES,
    SPLIT,
    PatientTable,
    lines_of,
    read_table,
)

SMALLEST_SIDE = 64
"""Pixels."""
FEWEST_TO_COMPARE = 8
"""Radiographs from which on negatives are looked for."""
NEGATIVE = -0.2
"""Correlation with the hospital's mean X-ray below which one looks like a negative. The least of
2,332 real X-rays of four collections was -0.06, and of negatives, 5 among 40, 99 % were below."""

_THUMBNAIL = 32
_VIEWS_TOLD = 5


@dataclass(slots=True)
class _Seen:
    """What is kept of the X-rays that were read.

    Attributes:
        first: the X-ray that showed a picture first, by its digest.
        names: of the X-rays, in the order of the thumbnails.
        thumbnails: float32 (pixels,), of mean 0 and length 1, or all 0.
    """

    first: dict[bytes, Listed] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    thumbnails: list[NDArray[np.float32]] = field(default_factory=list)


def check_radiographs(
    folder: Path,
    settings: ClassificationSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Checks one hospital's X-rays.

    Args:
        folder: holds `labels.csv` and `images`.
        settings: of the job; without them classes and views are not looked at.
        progress: called after each X-ray with the number of X-rays done and of all.

    Returns:
        Errors first.

    Raises:
        UsageError: there is no such file; see `consortium.tasks.tables.read_table`.
    """
    table = read_table(folder, LABELS)
    data = settings.data if settings else None
    lacking = missing_columns(table, data)
    if lacking:
        return [error("missing-column", LABELS, f"no column {', '.join(lacking)}")]
    chosen = choose_rows(table, data)
    found = _check_choice(table, chosen, data)
    found += _check_files(chosen.radiographs)
    found += _check_labels(chosen.radiographs, data)
    found += _check_split(table, chosen.radiographs)
    if not any(finding.severity == "error" for finding in found):
        found += _check_sides(table, chosen.radiographs, data)
    found += _check_pictures(chosen.radiographs, progress)
    return sorted(found, key=lambda finding: finding.severity)


def _check_choice(table: PatientTable, chosen: Choice, data: Radiographs | None) -> list[Finding]:
    """What is left out, and how many patients there are."""
    found = []
    everyone = len(table.rows)
    if chosen.incomplete:
        told = (
            f"{chosen.incomplete} of {everyone} X-rays lack a label or a patient and are left out"
        )
        found.append(warning("missing-value", LABELS, told))
    if chosen.others:
        told = (
            f"{len(chosen.others)} of {everyone} X-rays are of other views ({_some(chosen.others)})"
            " and are left out"
        )
        found.append(warning("other-view", LABELS, told))
    unknown = sum(not listed.view for listed in chosen.radiographs)
    if unknown and data:
        told = f"the view of {unknown} of {everyone} X-rays is not known; they are taken"
        found.append(warning("unknown-view", LABELS, told))
    patients = {listed.patient for listed in chosen.radiographs}
    if len(patients) < FEWEST_PATIENTS:
        told = f"{len(patients)} listed; fewer than {FEWEST_PATIENTS} can hardly train or validate"
        found.append(warning("too-few-patients", LABELS, told))
    return found


def _some(values: Sequence[str]) -> str:
    distinct = sorted(set(values))
    more = f" and {len(distinct) - _VIEWS_TOLD} more" if len(distinct) > _VIEWS_TOLD else ""
    return ", ".join(distinct[:_VIEWS_TOLD]) + more


def _check_files(radiographs: Sequence[Listed]) -> list[Finding]:
    found = []
    lines: defaultdict[PurePosixPath, list[int]] = defaultdict(list)
    for listed in radiographs:
        if not listed.row[FILE]:
            found.append(error("missing-file", LABELS, f"line {listed.line} names no file"))
        elif listed.path is None:
            told = f"{listed.row[FILE]} in line {listed.line} is not a path inside {IMAGES}"
            found.append(error("outside-folder", LABELS, told))
        else:
            lines[PurePosixPath(listed.row[FILE])].append(listed.line)
    for file, where in lines.items():
        if len(where) > 1:
            told = f"listed {len(where)} times, in lines {', '.join(map(str, where))}"
            found.append(error("duplicate-file", f"{IMAGES}/{file}", told))
    return found


def _check_labels(radiographs: Sequence[Listed], data: Radiographs | None) -> list[Finding]:
    if data is None:
        return []
    known = class_numbers(data)
    strange = [listed.line for listed in radiographs if listed.row[LABEL] not in known]
    if not strange:
        return []
    told = f"{LABEL} is none of {', '.join(known)} in {lines_of(strange)}"
    return [error("unknown-label", LABELS, told)]


def _check_split(table: PatientTable, radiographs: Sequence[Listed]) -> list[Finding]:
    """Of the column `split`, where there is one."""
    if SPLIT not in table.columns:
        return []
    found = []
    strange = [listed.line for listed in radiographs if listed.row[SPLIT] not in SIDES]
    if strange:
        told = f"{SPLIT} is neither {' nor '.join(SIDES)} in {lines_of(strange)}"
        found.append(error("bad-split", LABELS, told))
    sides = defaultdict(set)
    for listed in radiographs:
        sides[listed.patient].add(listed.row[SPLIT])
    torn = [patient for patient, of in sides.items() if of >= set(SIDES)]
    if torn:
        told = f"{len(torn)} patients are on both sides of the split, {torn[0]} among them"
        found.append(error("split-patient", LABELS, told))
    return found


def _check_sides(
    table: PatientTable, radiographs: Sequence[Listed], data: Radiographs | None
) -> list[Finding]:
    """Whether both sides of the split hold what they need; of X-rays without an error so far."""
    fraction = data.validation_fraction if data else 0.0
    if SPLIT in table.columns:
        aside = {listed.patient for listed in radiographs if listed.row[SPLIT] == SIDES[1]}
    else:
        aside = validation_patients({listed.patient for listed in radiographs}, (), fraction)
    training = [listed for listed in radiographs if listed.patient not in aside]
    found = []
    if not training:
        found.append(error("nothing-to-train", LABELS, "no X-ray is left for training"))
    elif data and len(_classes(radiographs, data)) < 2:
        one = next(iter(_classes(radiographs, data)))
        told = f"all {len(radiographs)} X-rays are of one class, {one}"
        found.append(warning("one-class-xrays", LABELS, told))
    elif data and len(_classes(training, data)) < 2:
        told = f"all {len(training)} training X-rays are of one class"
        found.append(warning("one-class-training", LABELS, told))
    if not aside and (SPLIT in table.columns or fraction > 0):
        found.append(error("empty-validation", LABELS, "no patient is left for validation"))
    return found


def _classes(radiographs: Sequence[Listed], data: Radiographs) -> set[str]:
    names, numbers = list(data.classes), class_numbers(data)
    return {names[numbers[listed.row[LABEL]]] for listed in radiographs}


def _check_pictures(
    radiographs: Sequence[Listed], progress: Callable[[int, int], None] | None
) -> list[Finding]:
    """Opens every file once."""
    found: list[Finding] = []
    seen = _Seen()
    opened: set[Path] = set()
    for done, listed in enumerate(radiographs, start=1):
        if listed.row[FILE] and listed.path is not None and listed.path not in opened:
            opened.add(listed.path)
            try:
                found += _check_picture(read_pixels(listed.path, listed.name), listed, seen)
            except UnusableRadiograph as problem:
                found.append(problem.finding)
        if progress:
            progress(done, len(radiographs))
    return found + _find_negatives(seen)


def _check_picture(pixels: Pixels, listed: Listed, seen: _Seen) -> list[Finding]:
    found = list(pixels.notes)
    rows, columns = pixels.values.shape
    if min(rows, columns) < SMALLEST_SIDE:
        found.append(warning("tiny-image", listed.name, f"{rows} x {columns} pixels"))
    if pixels.values.min() == pixels.values.max():
        found.append(warning("constant-image", listed.name, "has one value only"))
        return found
    letters = count_letters(pixels.values)
    if letters and not any(note.code == "burnt-in-text" for note in found):
        told = f"{letters} shapes like letters in a line near its border"
        found.append(warning("burnt-in-text", listed.name, told))
    found += _check_copy(pixels, listed, seen)
    seen.names.append(listed.name)
    seen.thumbnails.append(_thumbnail(pixels.values))
    return found


def _check_copy(pixels: Pixels, listed: Listed, seen: _Seen) -> list[Finding]:
    digest = hashlib.sha256(repr(pixels.values.shape).encode())
    digest.update(np.ascontiguousarray(pixels.values).data)
    first = seen.first.setdefault(digest.digest(), listed)
    if first is listed:
        return []
    if first.patient != listed.patient:
        told = f"the same pixels as {first.name}, of another patient"
        return [error("duplicate-image", listed.name, told)]
    told = f"the same pixels as {first.name}, of the same patient"
    return [warning("repeated-image", listed.name, told)]


def _thumbnail(values: NDArray[np.float32]) -> NDArray[np.float32]:
    small = Image.fromarray(values).resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    centred = np.asarray(small, np.float32).ravel()
    return _unit(centred - centred.mean())


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    length = float(np.linalg.norm(vector))
    return vector / np.float32(length) if length > 0 else vector


def _find_negatives(seen: _Seen) -> list[Finding]:
    """Radiographs that are dark where the hospital's others are bright."""
    if len(seen.names) < FEWEST_TO_COMPARE:
        return []
    thumbnails = np.stack(seen.thumbnails)
    likeness = thumbnails @ _unit(thumbnails.mean(0))
    return [
        warning("inverted-image", name, f"correlates by {value:.2f} with the other X-rays' mean")
        for name, value in zip(seen.names, likeness, strict=True)
        if value < NEGATIVE
    ]
