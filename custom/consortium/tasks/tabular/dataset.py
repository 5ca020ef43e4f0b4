"""Reads one hospital's table of patients: a CSV file with a header, one row a patient.

    patient,age,sex,num,split
    P001,63,1,0,training

`patient` is an id that never leaves the hospital; the job defines the other columns. A column
`split` (`training` or `validation`) is optional; without it a hash of the patient's id decides, as
for scans. A row that lacks a value that the job needs (empty or `?`) is left out, and counted.
Columns that the job does not name are not read.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from consortium.core.errors import Refused
from consortium.core.findings import Finding, error, warning
from consortium.core.plurals import every, plural
from consortium.tasks.columns import canonical_value
from consortium.tasks.split import ChooseValidation, validation_patients
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
    """Encoded patients, sorted by their ids.

    Attributes:
        names: ids.
        inputs: float32 (patients, inputs), each from 0 to 1: a number scaled by its range, or a
            category.
        outcomes: number of each patient's class, from 0; -1 if the table has no outcome.
    """

    names: tuple[str, ...]
    inputs: NDArray[np.float32]
    outcomes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.names)


def read_patients(path: Path) -> PatientTable:
    """Reads a hospital's table; see `consortium.tasks.tables.read_table`.

    Args:
        path: the file, or the hospital's folder.
    """
    return read_table(path, TABLE)


def check_table(
    folder: Path,
    settings: TabularSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Checks one hospital's table; see `consortium.core.finding_codes` for the codes.

    Args:
        folder: the folder with the table.
        settings: the job's; without them only patients and their split are checked.
        progress: called once, at the end.

    Raises:
        UsageError: there is no such table; see `read_patients`.
    """
    table = read_patients(folder)
    required = (PATIENT, *(settings.data.columns if settings else ()))
    missing = [name for name in required if name not in table.columns]
    if missing:
        return [error("missing-column", TABLE, f"no column {', '.join(missing)}")]
    findings = _check_patients(table)
    if settings is not None:
        data = settings.data
        findings += check_values(table, data)
        incomplete = len(table.rows) - len(_complete(table, data))
        if incomplete:
            detail = f"{incomplete} of {len(table.rows)} patients lack a value and are left out"
            findings.append(warning("missing-value", TABLE, detail))
        if not any(finding.severity == "error" for finding in findings):
            findings += _check_split(table, data)
    if progress:
        progress(len(table.rows), len(table.rows))
    return sorted(findings, key=lambda finding: finding.severity)


def check_values(table: PatientTable, data: Table, *, outcome: bool = True) -> list[Finding]:
    """Checks the values of a table that has all required columns."""
    findings = []
    for name, (low, high) in data.numbers.items():
        findings += _check_numbers(table, name, low, high)
    for name, values in data.categories.items():
        detail = _describe_unknown(table, name, values)
        if detail:
            findings.append(error("unknown-value", TABLE, detail))
    labels = [value for values in data.outcome.classes.values() for value in values]
    detail = _describe_unknown(table, data.outcome.column, labels) if outcome else ""
    if detail:
        findings.append(error("unknown-label", TABLE, detail))
    return findings


def _check_patients(table: PatientTable) -> list[Finding]:
    findings = []
    counts = Counter(row[PATIENT] for row in table.rows)
    repeated = [patient for patient, count in counts.items() if count > 1]
    if repeated:
        example = repeated[0] or "without an id"
        have = plural(len(repeated), "patient has", "patients have")
        detail = f"{have} several rows, {example} among them"
        findings.append(error("duplicate-patient", TABLE, detail))
    unknown = sum(row.get(SPLIT, SIDES[0]) not in SIDES for row in table.rows)
    if unknown:
        are = plural(unknown, f"value of {SPLIT} is", f"values of {SPLIT} are")
        detail = f"{are} neither {' nor '.join(SIDES)}"
        findings.append(error("bad-split", TABLE, detail))
    if len(table.rows) < FEWEST_PATIENTS:
        detail = f"{len(table.rows)} listed; fewer than {FEWEST_PATIENTS} can hardly train"
        findings.append(warning("too-few-patients", TABLE, detail))
    return findings


def _present_values(table: PatientTable, name: str) -> list[tuple[int, str]]:
    """The line number and value of each row in which a column is not missing."""
    return [
        (line, row[name])
        for line, row in zip(table.lines, table.rows, strict=True)
        if row[name] not in MISSING
    ]


def _check_numbers(table: PatientTable, name: str, low: float, high: float) -> list[Finding]:
    outside = []
    for line, text in _present_values(table, name):
        try:
            value = float(text)
        except ValueError:
            return [error("not-a-number", TABLE, f"{name} in line {line} is not a number")]
        if not (math.isfinite(value) and low <= value <= high):
            outside.append(line)
    if not outside:
        return []
    detail = f"{name} is not within {low:g} to {high:g} in {lines_of(outside)}"
    return [error("out-of-range", TABLE, detail)]


def _describe_unknown(table: PatientTable, name: str, known: Sequence[str]) -> str:
    """The lines in which a column has an unknown value, in words; empty if there is none."""
    unknown = [
        line
        for line, text in _present_values(table, name)
        if canonical_value(text, known) not in known
    ]
    return f"{name} is none of {', '.join(known)} in {lines_of(unknown)}" if unknown else ""


def _check_split(table: PatientTable, data: Table) -> list[Finding]:
    training, validation = split_table(table, data)
    findings = []
    if not len(training):
        findings.append(error("nothing-to-train", TABLE, "no patient is left for training"))
    elif len({*training.outcomes.tolist(), *validation.outcomes.tolist()}) < 2:
        detail = f"{every(len(training) + len(validation), 'patient')} of one class"
        findings.append(error("one-class", TABLE, detail))
    elif len(set(training.outcomes.tolist())) < 2:
        detail = f"{every(len(training), 'training patient')} of one class"
        findings.append(warning("one-class-training", TABLE, detail))
    if not len(validation) and (SPLIT in table.columns or data.validation_fraction > 0):
        findings.append(error("empty-validation", TABLE, "no patient is left for validation"))
    return findings


def _complete(table: PatientTable, data: Table, *, outcome: bool = True) -> list[Row]:
    columns = data.columns if outcome else data.columns[:-1]
    return [row for row in table.rows if not any(row[name] in MISSING for name in columns)]


def encode(table: PatientTable, data: Table, *, outcome: bool = True) -> Patients:
    """Encodes a table as numbers; `check_table` must have found no error in it.

    Args:
        table: a hospital's table.
        data: the job's settings of the table.
        outcome: whether the table has the outcome.
    """
    rows = sorted(_complete(table, data, outcome=outcome), key=lambda row: row[PATIENT])
    class_numbers = {
        value: index
        for index, values in enumerate(data.outcome.classes.values())
        for value in values
    }
    inputs = [
        [(float(row[name]) - low) / (high - low) for name, (low, high) in data.numbers.items()]
        + [
            float(canonical_value(row[name], values) == value)
            for name, values in data.categories.items()
            for value in values[1:]
        ]
        for row in rows
    ]
    known = tuple(class_numbers)
    outcomes = [
        class_numbers[canonical_value(row[data.outcome.column], known)] if outcome else -1
        for row in rows
    ]
    return Patients(
        tuple(row[PATIENT] for row in rows),
        np.array(inputs, np.float32).reshape(len(rows), len(data.inputs)),
        np.array(outcomes, np.int64),
    )


def split_table(
    table: PatientTable, data: Table, choose: ChooseValidation = validation_patients
) -> tuple[Patients, Patients]:
    """Encodes the patients and splits them into training and validation."""
    everyone = encode(table, data)
    listed = {row[PATIENT] for row in table.rows if row.get(SPLIT) == SIDES[1]}
    if SPLIT in table.columns:
        chosen = listed
    else:
        chosen = choose(everyone.names, (), data.validation_fraction)
    aside = np.array([name in chosen for name in everyone.names], bool)
    return _choose(everyone, ~aside), _choose(everyone, aside)


def restrict(patients: Patients, names: Collection[str]) -> Patients:
    """Selects patients by their ids."""
    return _choose(patients, np.array([name in names for name in patients.names], bool))


def _choose(patients: Patients, chosen: NDArray[np.bool_]) -> Patients:
    names = tuple(np.array(patients.names, object)[chosen].tolist())
    return Patients(names, patients.inputs[chosen], patients.outcomes[chosen])


def require_columns(table: PatientTable, data: Table, *, outcome: bool) -> None:
    """Refuses a table that lacks columns of the job or the model.

    Raises:
        Refused: `missing-column`.
    """
    columns = (PATIENT, *(data.columns if outcome else data.columns[:-1]))
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise Refused(
            "missing-column",
            f"the table has no column {', '.join(missing)}",
            str(table.path),
            "give a table with the job's columns",
        )
