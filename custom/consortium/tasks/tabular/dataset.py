"""The patients of one hospital as a table: a CSV file with a header, one row a patient.

    patient,age,sex,num,split
    P001,63,1,0,training

`patient` is an id that never leaves the hospital; the other columns are the job's. A column `split`
(`training` or `validation`) is optional; without it a hash of the patient's id decides, as for
scans. A row in which a value that the job needs is missing (empty or `?`) is left out, and counted.
Columns that the job does not know are not read.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from consortium.core.errors import Refused
from consortium.core.findings import Finding, error, warning
from consortium.tasks.split import validation_patients
from consortium.tasks.tables import (
    FEWEST_PATIENTS,
    MISSING,
    PATIENT,
    SIDES,
    SPLIT,
    PatientTable,
    Row,
    lines_of,
    read_table,
)
from consortium.tasks.tabular.settings import Table, TabularSettings

TABLE = TabularSettings.listing


@dataclass(frozen=True, slots=True)
class Patients:
    """Patients in numbers, sorted by their ids.

    Attributes:
        names: ids.
        inputs: float32 (patients, inputs), each from 0 to 1: a number by its range, a category.
        outcomes: of each the number of the class, from 0; -1 where the table has no outcome.
    """

    names: tuple[str, ...]
    inputs: NDArray[np.float32]
    outcomes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.names)


def read_patients(path: Path) -> PatientTable:
    """Reads a hospital's table; see `consortium.tasks.tables.read_table`.

    Args:
        path: of the file, or of the hospital's folder.
    """
    return read_table(path, TABLE)


def check_table(
    folder: Path,
    settings: TabularSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Checks one hospital's table; see `consortium.tasks.segmentation.checks` for the codes.

    Args:
        folder: that holds it.
        settings: of the job; without them only patients and their split are looked at.
        progress: called once, at the end.

    Raises:
        UsageError: there is no such table; see `read_patients`.
    """
    table = read_patients(folder)
    needed = (PATIENT, *(settings.data.columns if settings else ()))
    lacking = [name for name in needed if name not in table.columns]
    if lacking:
        return [error("missing-column", TABLE, f"no column {', '.join(lacking)}")]
    found = _check_patients(table)
    if settings is not None:
        data = settings.data
        found += check_values(table, data)
        incomplete = len(table.rows) - len(_complete(table, data))
        if incomplete:
            told = f"{incomplete} of {len(table.rows)} patients lack a value and are left out"
            found.append(warning("missing-value", TABLE, told))
        if not any(finding.severity == "error" for finding in found):
            found += _check_split(table, data)
    if progress:
        progress(len(table.rows), len(table.rows))
    return sorted(found, key=lambda finding: finding.severity)


def check_values(table: PatientTable, data: Table, *, outcome: bool = True) -> list[Finding]:
    """What is wrong with the values of a table that has the columns."""
    found = []
    for name, (low, high) in data.numbers.items():
        found += _check_numbers(table, name, low, high)
    for name, of in data.categories.items():
        strange = _others(table, name, of)
        if strange:
            found.append(error("unknown-value", TABLE, strange))
    of = [value for values in data.outcome.classes.values() for value in values]
    strange = _others(table, data.outcome.column, of) if outcome else ""
    if strange:
        found.append(error("unknown-label", TABLE, strange))
    return found


def _check_patients(table: PatientTable) -> list[Finding]:
    found = []
    twice = [n for n, times in Counter(row[PATIENT] for row in table.rows).items() if times > 1]
    if twice:
        told = f"{len(twice)} patients have several rows, {twice[0] or 'without an id'} among them"
        found.append(error("duplicate-patient", TABLE, told))
    strange = sum(row.get(SPLIT, SIDES[0]) not in SIDES for row in table.rows)
    if strange:
        told = f"{strange} values of {SPLIT} are neither {' nor '.join(SIDES)}"
        found.append(error("bad-split", TABLE, told))
    if len(table.rows) < FEWEST_PATIENTS:
        told = f"{len(table.rows)} listed; fewer than {FEWEST_PATIENTS} can hardly train"
        found.append(warning("too-few-patients", TABLE, told))
    return found


def _given(table: PatientTable, name: str) -> list[tuple[int, str]]:
    """The values of a column that are there, with the number of their line."""
    return [
        (number, row[name])
        for number, row in zip(table.lines, table.rows, strict=True)
        if row[name] not in MISSING
    ]


def _check_numbers(table: PatientTable, name: str, low: float, high: float) -> list[Finding]:
    outside = []
    for line, text in _given(table, name):
        try:
            value = float(text)
        except ValueError:
            return [error("not-a-number", TABLE, f"{name} in line {line} is no number")]
        if not (math.isfinite(value) and low <= value <= high):
            outside.append(line)
    if not outside:
        return []
    told = f"{name} is not within {low:g} to {high:g} in {lines_of(outside)}"
    return [error("out-of-range", TABLE, told)]


def _others(table: PatientTable, name: str, of: Sequence[str]) -> str:
    """Where a column has other values than those, in words."""
    strange = [line for line, text in _given(table, name) if meant(text, of) not in of]
    return f"{name} is none of {', '.join(of)} in {lines_of(strange)}" if strange else ""


def meant(text: str, of: Sequence[str]) -> str:
    """The value of a job that a table's is equal to as a number, as 1.0 is to 1; else itself."""
    if text in of:
        return text
    number = _number(text)
    return next((value for value in of if number is not None and _number(value) == number), text)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _check_split(table: PatientTable, data: Table) -> list[Finding]:
    training, validation = split_table(table, data)
    found = []
    if not len(training):
        found.append(error("nothing-to-train", TABLE, "no patient is left for training"))
    elif len({*training.outcomes.tolist(), *validation.outcomes.tolist()}) < 2:
        told = f"all {len(training) + len(validation)} patients are of one class"
        found.append(error("one-class", TABLE, told))
    elif len(set(training.outcomes.tolist())) < 2:
        told = f"all {len(training)} training patients are of one class"
        found.append(warning("one-class-training", TABLE, told))
    if not len(validation) and (SPLIT in table.columns or data.validation_fraction > 0):
        found.append(error("empty-validation", TABLE, "no patient is left for validation"))
    return found


def _complete(table: PatientTable, data: Table, *, outcome: bool = True) -> list[Row]:
    columns = data.columns if outcome else data.columns[:-1]
    return [row for row in table.rows if not any(row[name] in MISSING for name in columns)]


def encode(table: PatientTable, data: Table, *, outcome: bool = True) -> Patients:
    """Makes numbers of a table that `check_table` finds no error in.

    Args:
        table: of a hospital.
        data: what the job makes of it.
        outcome: whether the table has it.
    """
    rows = sorted(_complete(table, data, outcome=outcome), key=lambda row: row[PATIENT])
    number_of = {
        value: index
        for index, values in enumerate(data.outcome.classes.values())
        for value in values
    }
    inputs = [
        [(float(row[name]) - low) / (high - low) for name, (low, high) in data.numbers.items()]
        + [
            float(meant(row[name], of) == value)
            for name, of in data.categories.items()
            for value in of[1:]
        ]
        for row in rows
    ]
    known = tuple(number_of)
    outcomes = [
        number_of[meant(row[data.outcome.column], known)] if outcome else -1 for row in rows
    ]
    return Patients(
        tuple(row[PATIENT] for row in rows),
        np.array(inputs, np.float32).reshape(len(rows), len(data.inputs)),
        np.array(outcomes, np.int64),
    )


def split_table(table: PatientTable, data: Table) -> tuple[Patients, Patients]:
    """The patients that train and those that validate."""
    everyone = encode(table, data)
    named = {row[PATIENT] for row in table.rows if row.get(SPLIT) == SIDES[1]}
    if SPLIT in table.columns:
        chosen = named
    else:
        chosen = validation_patients(everyone.names, (), data.validation_fraction)
    aside = np.array([name in chosen for name in everyone.names], bool)
    return _choose(everyone, ~aside), _choose(everyone, aside)


def _choose(patients: Patients, chosen: NDArray[np.bool_]) -> Patients:
    names = tuple(np.array(patients.names, object)[chosen].tolist())
    return Patients(names, patients.inputs[chosen], patients.outcomes[chosen])


def require_columns(table: PatientTable, data: Table, *, outcome: bool) -> None:
    """Refuses a table that is not of a job or a model.

    Raises:
        Refused: `missing-column`.
    """
    columns = (PATIENT, *(data.columns if outcome else data.columns[:-1]))
    lacking = [name for name in columns if name not in table.columns]
    if lacking:
        raise Refused(
            "missing-column",
            f"the table has no column {', '.join(lacking)}",
            str(table.path),
            "give a table with the job's columns",
        )
