"""Checks one hospital's X-rays; see `consortium.core.finding_codes` for the codes.

Bad data become findings and raise nothing. Nothing is written. One X-ray is in memory at a time;
only a digest of its values and a thumbnail are kept.
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
from consortium.core.plurals import every, plural
from consortium.imaging.burnt_text import count_letters
from consortium.imaging.radiographs import Pixels, UnusableRadiograph, read_pixels
from consortium.tasks.classification.dataset import (
    FILE,
    IMAGES,
    LABEL,
    LABELS,
    ListedRadiograph,
    SelectedRows,
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
"""X-rays that are needed to look for negatives among them."""
NEGATIVE = -0.2
"""Correlation with the hospital's mean X-ray below which an X-ray looks like a negative. The lowest
of 2,332 real X-rays of four collections was -0.06; 99 % of negatives, 5 among 40, were below."""

_THUMBNAIL = 32
_MOST_VIEWS = 5  # that a finding names


@dataclass(slots=True)
class _Seen:
    """What is kept of the X-rays that were read.

    Attributes:
        first: the first X-ray with certain pixels, by their digest.
        names: names of the X-rays, in the order of the thumbnails.
        thumbnails: float32 (pixels,), of mean 0 and length 1, or all 0.
    """

    first: dict[bytes, ListedRadiograph] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    thumbnails: list[NDArray[np.float32]] = field(default_factory=list)


def check_radiographs(
    folder: Path,
    settings: ClassificationSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Checks one hospital's X-rays.

    Args:
        folder: the folder with `labels.csv` and `images`.
        settings: the job's; without them classes and views are not checked.
        progress: called after each X-ray with the number of X-rays done and of all.

    Returns:
        The findings, errors first.

    Raises:
        UsageError: there is no such file; see `consortium.tasks.tables.read_table`.
    """
    table = read_table(folder, LABELS)
    data = settings.data if settings else None
    missing = missing_columns(table, data)
    if missing:
        return [error("missing-column", LABELS, f"no column {', '.join(missing)}")]
    chosen = choose_rows(table, data)
    findings = _check_selection(table, chosen, data)
    findings += _check_files(chosen.radiographs)
    findings += _check_labels(chosen.radiographs, data)
    findings += _check_split(table, chosen.radiographs)
    if not any(finding.severity == "error" for finding in findings):
        findings += _check_sides(table, chosen.radiographs, data)
    findings += _check_pictures(chosen.radiographs, progress)
    return sorted(findings, key=lambda finding: finding.severity)


def _check_selection(
    table: PatientTable, chosen: SelectedRows, data: Radiographs | None
) -> list[Finding]:
    """Reports what is left out, and too few patients."""
    findings = []
    total = len(table.rows)
    if chosen.incomplete:
        detail = f"{chosen.incomplete} of {total} X-rays lack a label or a patient and are left out"
        findings.append(warning("missing-value", LABELS, detail))
    if chosen.other_views:
        others = chosen.other_views
        detail = (
            f"{len(others)} of {total} X-rays are of other views ({_some(others)}) and are left out"
        )
        findings.append(warning("other-view", LABELS, detail))
    unknown = sum(not listed.view for listed in chosen.radiographs)
    if unknown and data:
        detail = f"the view of {unknown} of {total} X-rays is not known; they are taken"
        findings.append(warning("unknown-view", LABELS, detail))
    patients = {listed.patient for listed in chosen.radiographs}
    if len(patients) < FEWEST_PATIENTS:
        detail = (
            f"{len(patients)} listed; fewer than {FEWEST_PATIENTS} can hardly train or validate"
        )
        findings.append(warning("too-few-patients", LABELS, detail))
    return findings


def _some(values: Sequence[str]) -> str:
    distinct = sorted(set(values))
    more = f" and {len(distinct) - _MOST_VIEWS} more" if len(distinct) > _MOST_VIEWS else ""
    return ", ".join(distinct[:_MOST_VIEWS]) + more


def _check_files(radiographs: Sequence[ListedRadiograph]) -> list[Finding]:
    findings = []
    lines: defaultdict[PurePosixPath, list[int]] = defaultdict(list)
    for listed in radiographs:
        if not listed.row[FILE]:
            findings.append(error("missing-file", LABELS, f"line {listed.line} names no file"))
        elif listed.path is None:
            detail = f"{listed.row[FILE]} in line {listed.line} is not a path inside {IMAGES}"
            findings.append(error("outside-folder", LABELS, detail))
        else:
            lines[PurePosixPath(listed.row[FILE])].append(listed.line)
    for file, numbers in lines.items():
        if len(numbers) > 1:
            detail = f"listed {len(numbers)} times, in lines {', '.join(map(str, numbers))}"
            findings.append(error("duplicate-file", f"{IMAGES}/{file}", detail))
    return findings


def _check_labels(
    radiographs: Sequence[ListedRadiograph], data: Radiographs | None
) -> list[Finding]:
    if data is None:
        return []
    known = class_numbers(data)
    unknown = [listed.line for listed in radiographs if listed.row[LABEL] not in known]
    if not unknown:
        return []
    detail = f"{LABEL} is none of {', '.join(known)} in {lines_of(unknown)}"
    return [error("unknown-label", LABELS, detail)]


def _check_split(table: PatientTable, radiographs: Sequence[ListedRadiograph]) -> list[Finding]:
    """Checks the column `split`, if there is one."""
    if SPLIT not in table.columns:
        return []
    findings = []
    unknown = [listed.line for listed in radiographs if listed.row[SPLIT] not in SIDES]
    if unknown:
        detail = f"{SPLIT} is neither {' nor '.join(SIDES)} in {lines_of(unknown)}"
        findings.append(error("bad-split", LABELS, detail))
    sides = defaultdict(set)
    for listed in radiographs:
        sides[listed.patient].add(listed.row[SPLIT])
    on_both = [patient for patient, values in sides.items() if values >= set(SIDES)]
    if on_both:
        are = plural(len(on_both), "patient is", "patients are")
        detail = f"{are} on both sides of the split, {on_both[0]} among them"
        findings.append(error("split-patient", LABELS, detail))
    return findings


def _check_sides(
    table: PatientTable, radiographs: Sequence[ListedRadiograph], data: Radiographs | None
) -> list[Finding]:
    """Checks that both sides of the split hold what they need, if nothing else is wrong so far."""
    fraction = data.validation_fraction if data else 0.0
    if SPLIT in table.columns:
        aside = {listed.patient for listed in radiographs if listed.row[SPLIT] == SIDES[1]}
    else:
        aside = validation_patients({listed.patient for listed in radiographs}, (), fraction)
    training = [listed for listed in radiographs if listed.patient not in aside]
    findings = []
    if not training:
        findings.append(error("nothing-to-train", LABELS, "no X-ray is left for training"))
    elif data and len(_classes(radiographs, data)) < 2:
        only_class = next(iter(_classes(radiographs, data)))
        detail = f"{every(len(radiographs), 'X-ray')} of one class, {only_class}"
        findings.append(warning("one-class-xrays", LABELS, detail))
    elif data and len(_classes(training, data)) < 2:
        detail = f"{every(len(training), 'training X-ray')} of one class"
        findings.append(warning("one-class-training", LABELS, detail))
    if not aside and (SPLIT in table.columns or fraction > 0):
        findings.append(error("empty-validation", LABELS, "no patient is left for validation"))
    return findings


def _classes(radiographs: Sequence[ListedRadiograph], data: Radiographs) -> set[str]:
    names, numbers = list(data.classes), class_numbers(data)
    return {names[numbers[listed.row[LABEL]]] for listed in radiographs}


def _check_pictures(
    radiographs: Sequence[ListedRadiograph], progress: Callable[[int, int], None] | None
) -> list[Finding]:
    """Opens every file once."""
    findings: list[Finding] = []
    seen = _Seen()
    opened: set[Path] = set()
    for done, listed in enumerate(radiographs, start=1):
        if listed.row[FILE] and listed.path is not None and listed.path not in opened:
            opened.add(listed.path)
            try:
                findings += _check_picture(read_pixels(listed.path, listed.name), listed, seen)
            except UnusableRadiograph as problem:
                findings.append(problem.finding)
        if progress:
            progress(done, len(radiographs))
    return findings + _find_negatives(seen)


def _check_picture(pixels: Pixels, listed: ListedRadiograph, seen: _Seen) -> list[Finding]:
    findings = list(pixels.notes)
    rows, columns = pixels.values.shape
    if min(rows, columns) < SMALLEST_SIDE:
        findings.append(warning("tiny-image", listed.name, f"{rows} x {columns} pixels"))
    if pixels.values.min() == pixels.values.max():
        findings.append(warning("constant-image", listed.name, "has one value only"))
        return findings
    letters = count_letters(pixels.values)
    if letters and not any(finding.code == "burnt-in-text" for finding in findings):
        detail = f"{letters} shapes like letters in a line near its border"
        findings.append(warning("burnt-in-text", listed.name, detail))
    findings += _check_copy(pixels, listed, seen)
    seen.names.append(listed.name)
    seen.thumbnails.append(_thumbnail(pixels.values))
    return findings


def _check_copy(pixels: Pixels, listed: ListedRadiograph, seen: _Seen) -> list[Finding]:
    digest = hashlib.sha256(repr(pixels.values.shape).encode())
    digest.update(np.ascontiguousarray(pixels.values).data)
    first = seen.first.setdefault(digest.digest(), listed)
    if first is listed:
        return []
    if first.patient != listed.patient:
        detail = f"the same pixels as {first.name}, of another patient"
        return [error("duplicate-image", listed.name, detail)]
    detail = f"the same pixels as {first.name}, of the same patient"
    return [warning("repeated-image", listed.name, detail)]


def _thumbnail(values: NDArray[np.float32]) -> NDArray[np.float32]:
    small = Image.fromarray(values).resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    centred = np.asarray(small, np.float32).ravel()
    return _unit(centred - centred.mean())


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    length = float(np.linalg.norm(vector))
    return vector / np.float32(length) if length > 0 else vector


def _find_negatives(seen: _Seen) -> list[Finding]:
    """Reports X-rays that are dark where the hospital's other X-rays are bright."""
    if len(seen.names) < FEWEST_TO_COMPARE:
        return []
    thumbnails = np.stack(seen.thumbnails)
    correlations = thumbnails @ _unit(thumbnails.mean(0))
    return [
        warning("inverted-image", name, f"correlates by {value:.2f} with the other X-rays' mean")
        for name, value in zip(seen.names, correlations, strict=True)
        if value < NEGATIVE
    ]
