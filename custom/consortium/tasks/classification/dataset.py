"""Reads one hospital's X-rays: `labels.csv`, one row an X-ray, and the folder `images`.

    file,patient,label,view,split,scanner
    a1.png,P001,covid,pa,training,north

`file` is a path below `images`. `patient` is an id that never leaves the hospital. The columns
`view` and `split` (`training` or `validation`) are optional, as is every further column. Always:

* A patient is never on both sides of the split. Without `split` a hash of the patient's id
  decides, as for scans.
* X-rays of views that the job does not take are left out, and so are those whose label or patient
  is missing (empty or `?`). If the view is missing, the header of a DICOM X-ray gives it. An X-ray
  of unknown view is taken.
* A file outside `images` is opened only through links that the hospital made.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from consortium.core.errors import Refused
from consortium.imaging.radiographs import read_view
from consortium.imaging.volumes import name_inside
from consortium.tasks.classification.settings import ClassificationSettings, Radiographs
from consortium.tasks.split import ChooseValidation, validation_patients
from consortium.tasks.tables import (
    MISSING,
    PATIENT,
    SIDES,
    SPLIT,
    PatientTable,
    Row,
    lines_of,
    read_table,
)

LABELS, IMAGES = ClassificationSettings.listing, "images"
FILE, LABEL, VIEW = "file", "label", "view"


@dataclass(frozen=True, slots=True)
class Radiograph:
    """An X-ray that the job takes.

    Attributes:
        path: its file.
        file: name in `labels.csv`.
        patient: id; never leaves the hospital.
        label: number of its class, from 0; -1 without a label.
        source: value of `data.source`, or empty.
    """

    path: Path
    file: str
    patient: str
    label: int
    source: str


@dataclass(frozen=True, slots=True)
class RadiographList:
    """The content of `labels.csv`.

    Attributes:
        folder: the hospital's folder.
        radiographs: X-rays that the job takes, in the file's order.
        left_out: number of X-rays of other views, or without label or patient.
        validation: patients that the file itself puts aside; empty if it names none.
    """

    folder: Path
    radiographs: tuple[Radiograph, ...]
    left_out: int
    validation: frozenset[str]


@dataclass(frozen=True, slots=True)
class ListedRadiograph:
    """A row of `labels.csv` with an X-ray that the job takes.

    Attributes:
        line: line number in the file, from 2.
        row: values by column.
        patient: id.
        path: the X-ray's file; None if the path leads out of `images`.
        view: from the table or the DICOM header; empty if unknown.
    """

    line: int
    row: Row
    patient: str
    path: Path | None
    view: str

    @property
    def name(self) -> str:
        """The X-ray's name in findings."""
        return f"{IMAGES}/{self.row[FILE]}"


@dataclass(frozen=True, slots=True)
class SelectedRows:
    """The rows that a job takes, and what it leaves out.

    Attributes:
        radiographs: X-rays that the job takes.
        incomplete: number of rows without label or patient.
        other_views: view of each X-ray that is left out for its view.
    """

    radiographs: tuple[ListedRadiograph, ...]
    incomplete: int
    other_views: tuple[str, ...]


def missing_columns(
    table: PatientTable, data: Radiographs | None, *, labelled: bool = True
) -> tuple[str, ...]:
    """The columns that a job needs and the file lacks."""
    required = [FILE, PATIENT, LABEL] if labelled else [FILE]
    if labelled and data and data.source:
        required.append(data.source)
    return tuple(name for name in required if name not in table.columns)


def choose_rows(
    table: PatientTable, data: Radiographs | None, *, labelled: bool = True
) -> SelectedRows:
    """Selects the rows of the X-rays that a job takes; without a job, those of all views.

    Args:
        table: the table, with all required columns.
        data: the job's settings of X-rays.
        labelled: whether label and patient are required; otherwise a missing patient is replaced
            by the file's name.
    """
    taken, other_views = [], []
    complete = list(_complete(table, labelled=labelled))
    for listed in complete:
        if data and not takes_view(listed.view, data):
            other_views.append(listed.view)
        else:
            taken.append(listed)
    return SelectedRows(tuple(taken), len(table.rows) - len(complete), tuple(other_views))


def _complete(table: PatientTable, *, labelled: bool) -> Iterator[ListedRadiograph]:
    images = table.path.parent / IMAGES
    for line, row in zip(table.lines, table.rows, strict=True):
        patient = row.get(PATIENT, "")
        if labelled and (row[LABEL] in MISSING or patient in MISSING):
            continue
        patient = row[FILE] if patient in MISSING else patient
        path = images / row[FILE]
        inside = path if name_inside(images, path) else None
        view = row.get(VIEW, "")
        if view in MISSING:
            view = read_view(inside) if inside else ""
        yield ListedRadiograph(line, row, patient, inside, view)


def takes_view(view: str, data: Radiographs) -> bool:
    """Whether a job takes X-rays of a view, whatever its case; an unknown view is taken."""
    return not view or _normalised(view) in map(_normalised, data.views)


def _normalised(view: str) -> str:
    return " ".join(view.casefold().split())


def class_numbers(data: Radiographs) -> dict[str, int]:
    """Maps each value of the column `label` to the number of its class."""
    return {
        value: number for number, values in enumerate(data.classes.values()) for value in values
    }


def read_radiographs(folder: Path, data: Radiographs, *, labelled: bool = True) -> RadiographList:
    """Reads a hospital's `labels.csv`; reads at most the headers of the X-rays themselves.

    Args:
        folder: the hospital's folder.
        data: the job's settings of X-rays.
        labelled: whether label and patient are required; otherwise the column `file` is enough.

    Raises:
        UsageError: there is no such file; see `consortium.tasks.tables.read_table`.
        Refused: `missing-column`, `outside-folder` or `unknown-label`.
    """
    table = read_table(folder, LABELS)
    missing = missing_columns(table, data, labelled=labelled)
    if missing:
        raise _refused(table, "missing-column", f"no column {', '.join(missing)}", "add it")
    chosen = choose_rows(table, data, labelled=labelled)
    numbers = class_numbers(data)
    outside = [listed.line for listed in chosen.radiographs if listed.path is None]
    if outside:
        problem = f"a path is not inside {IMAGES} in {lines_of(outside)}"
        raise _refused(table, "outside-folder", problem, f"put the file into {IMAGES}")
    unknown = [listed.line for listed in chosen.radiographs if listed.row.get(LABEL) not in numbers]
    if labelled and unknown:
        problem = f"{LABEL} is none of {', '.join(numbers)} in {lines_of(unknown)}"
        raise _refused(table, "unknown-label", problem, "correct it, or name it in data.classes")
    radiographs = tuple(
        Radiograph(
            listed.path,
            listed.row[FILE],
            listed.patient,
            numbers[listed.row[LABEL]] if labelled else -1,
            listed.row.get(data.source, "") if data.source else "",
        )
        for listed in chosen.radiographs
        if listed.path is not None
    )
    aside = {listed.patient for listed in chosen.radiographs if listed.row.get(SPLIT) == SIDES[1]}
    return RadiographList(
        table.path.parent, radiographs, len(table.rows) - len(radiographs), frozenset(aside)
    )


def _refused(table: PatientTable, code: str, problem: str, advice: str) -> Refused:
    return Refused(code, problem, str(table.path), advice)


def split_radiographs(
    listing: RadiographList, data: Radiographs, choose: ChooseValidation = validation_patients
) -> tuple[tuple[Radiograph, ...], tuple[Radiograph, ...]]:
    """Splits X-rays into those for training and validation, each sorted by patient and file."""
    chosen = choose(
        {radiograph.patient for radiograph in listing.radiographs},
        listing.validation,
        data.validation_fraction,
    )
    ordered = sorted(
        listing.radiographs, key=lambda radiograph: (radiograph.patient, radiograph.file)
    )
    return (
        tuple(radiograph for radiograph in ordered if radiograph.patient not in chosen),
        tuple(radiograph for radiograph in ordered if radiograph.patient in chosen),
    )
