"""The X-rays of one hospital: `labels.csv`, one row an X-ray, and the folder `images`.

    file,patient,label,view,split,scanner
    a1.png,P001,covid,pa,training,north

`file` is a path below `images`; `patient` is an id that never leaves the hospital. `view` and
`split` (`training` or `validation`) are optional, and so is what else the file has. Always:

* A patient is never on both sides of the split; without `split` a hash of the patient's id decides,
  as for scans.
* An X-ray of another view than the job's is left out, and so is one whose label or patient is
  missing (empty or `?`). Where the file says no view, the header of a DICOM X-ray does; an X-ray
  whose view nobody says is taken.
* No file outside `images` is opened but through links that the hospital made.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from consortium.core.errors import Refused
from consortium.imaging.radiographs import read_view
from consortium.imaging.volumes import name_inside
from consortium.tasks.classification.settings import ClassificationSettings, Radiographs
from consortium.tasks.split import validation_patients
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
        path: of its file.
        file: as `labels.csv` names it.
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
    """What `labels.csv` says.

    Attributes:
        folder: the hospital's.
        radiographs: that the job takes, in the file's order.
        left_out: X-rays of other views and those without label or patient.
        validation: patients that the file itself puts aside; empty if it names none.
    """

    folder: Path
    radiographs: tuple[Radiograph, ...]
    left_out: int
    validation: frozenset[str]


@dataclass(frozen=True, slots=True)
class Listed:
    """A row of an X-ray that the job takes.

    Attributes:
        line: of the file, from 2.
        row: values by column.
        patient: id.
        path: None where it leads out of `images`.
        view: what is known of it, or empty.
    """

    line: int
    row: Row
    patient: str
    path: Path | None
    view: str

    @property
    def name(self) -> str:
        """What findings call the X-ray."""
        return f"{IMAGES}/{self.row[FILE]}"


@dataclass(frozen=True, slots=True)
class Choice:
    """The rows that a job takes, and how many it does not.

    Attributes:
        radiographs: that it takes.
        incomplete: rows without label or patient.
        others: views of the X-rays of other views.
    """

    radiographs: tuple[Listed, ...]
    incomplete: int
    others: tuple[str, ...]


def missing_columns(
    table: PatientTable, data: Radiographs | None, *, labelled: bool = True
) -> tuple[str, ...]:
    """Columns that a job needs and the file lacks."""
    needed = [FILE, PATIENT, LABEL] if labelled else [FILE]
    if labelled and data and data.source:
        needed.append(data.source)
    return tuple(name for name in needed if name not in table.columns)


def choose_rows(table: PatientTable, data: Radiographs | None, *, labelled: bool = True) -> Choice:
    """The rows of the X-rays that a job takes; without a job, X-rays of all views.

    Args:
        table: that has the columns.
        data: what the job makes of X-rays.
        labelled: whether label and patient must be there; else the file stands for the patient.
    """
    taken, others = [], []
    complete = list(_complete(table, labelled=labelled))
    for listed in complete:
        if data and not takes_view(listed.view, data):
            others.append(listed.view)
        else:
            taken.append(listed)
    return Choice(tuple(taken), len(table.rows) - len(complete), tuple(others))


def _complete(table: PatientTable, *, labelled: bool) -> Iterator[Listed]:
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
        yield Listed(line, row, patient, inside, view)


def takes_view(view: str, data: Radiographs) -> bool:
    """Whether a job takes X-rays of a view, whatever its case; one that nobody says is taken."""
    return not view or _plain(view) in map(_plain, data.views)


def _plain(view: str) -> str:
    return " ".join(view.casefold().split())


def class_numbers(data: Radiographs) -> dict[str, int]:
    """The number of the class of each value of the column `label`."""
    return {
        value: number for number, values in enumerate(data.classes.values()) for value in values
    }


def read_radiographs(folder: Path, data: Radiographs, *, labelled: bool = True) -> RadiographList:
    """Reads a hospital's `labels.csv`. Of the X-rays themselves at most headers are read.

    Args:
        folder: the hospital's.
        data: what the job makes of X-rays.
        labelled: whether label and patient are there; else the column `file` is enough.

    Raises:
        UsageError: there is no such file; see `consortium.tasks.tables.read_table`.
        Refused: `missing-column`, `outside-folder` or `unknown-label`.
    """
    table = read_table(folder, LABELS)
    lacking = missing_columns(table, data, labelled=labelled)
    if lacking:
        raise _refused(table, "missing-column", f"no column {', '.join(lacking)}", "add it")
    chosen = choose_rows(table, data, labelled=labelled)
    numbers = class_numbers(data)
    outside = [listed.line for listed in chosen.radiographs if listed.path is None]
    if outside:
        told = f"a path that is not inside {IMAGES} in {lines_of(outside)}"
        raise _refused(table, "outside-folder", told, f"put the file into {IMAGES}")
    strange = [listed.line for listed in chosen.radiographs if listed.row.get(LABEL) not in numbers]
    if labelled and strange:
        told = f"{LABEL} is none of {', '.join(numbers)} in {lines_of(strange)}"
        raise _refused(table, "unknown-label", told, "correct it, or name it in data.classes")
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


def _refused(table: PatientTable, code: str, what: str, todo: str) -> Refused:
    return Refused(code, what, str(table.path), todo)


def split_radiographs(
    found: RadiographList, data: Radiographs
) -> tuple[tuple[Radiograph, ...], tuple[Radiograph, ...]]:
    """The X-rays that train and those that validate, each sorted by patient and file."""
    chosen = validation_patients(
        {radiograph.patient for radiograph in found.radiographs},
        found.validation,
        data.validation_fraction,
    )
    ordered = sorted(
        found.radiographs, key=lambda radiograph: (radiograph.patient, radiograph.file)
    )
    return (
        tuple(radiograph for radiograph in ordered if radiograph.patient not in chosen),
        tuple(radiograph for radiograph in ordered if radiograph.patient in chosen),
    )
