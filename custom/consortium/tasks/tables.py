"""Tables of patients as CSV files with a header: read whole, written whole."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from consortium.core.errors import Refused, UsageError
from consortium.core.files import write_text
from consortium.tasks.registry import TASKS, settings_of

PATIENT, SPLIT = "patient", "split"
SIDES = ("training", "validation")
FEWEST_PATIENTS = 5
MISSING = ("", "?")

Row = dict[str, str]


@dataclass(frozen=True, slots=True)
class PatientTable:
    """A file as it is.

    Attributes:
        path: of the file.
        columns: names in the order of the file.
        rows: values by column, blanks at their ends cut off.
        lines: of each row the number of its last line in the file.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    lines: tuple[int, ...]


def read_table(path: Path, usual: str) -> PatientTable:
    """Reads a table.

    Args:
        path: of the file, or of the folder that holds it under its usual name.
        usual: that name.

    Raises:
        UsageError: `missing-folder`, `missing-file`, `bad-table` or `empty-hospital`.
    """
    if path.suffix.lower() != ".csv":
        if not path.is_dir():
            raise UsageError("missing-folder", "no such folder", str(path), "check the path")
        path = path / usual
    if not path.is_file():
        raise UsageError("missing-file", "no such file", str(path), "check the path")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            found = [(reader.line_num, values) for values in reader if _says(values)]
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise _bad(path, f"it cannot be read ({type(problem).__name__})") from None
    columns = tuple(name.strip() for name in found[0][1]) if found else ()
    if len(columns) == 1 and re.search("[;\t]", columns[0]):
        raise _bad(path, "its columns are separated by something else than commas")
    if not columns or len(set(columns)) < len(columns):
        raise _bad(path, "its header is missing or names a column twice")
    for number, values in found[1:]:
        if len(values) != len(columns):
            raise _bad(path, f"line {number} has {len(values)} values, the header {len(columns)}")
    if len(found) < 2:
        raise UsageError("empty-hospital", "no patients are listed", str(path), "list them")
    rows = (dict(zip(columns, map(str.strip, values), strict=True)) for _, values in found[1:])
    return PatientTable(path, columns, tuple(rows), tuple(number for number, _ in found[1:]))


def _says(values: Sequence[str]) -> bool:
    """Whether a line is more than blanks."""
    return len(values) > 1 or any(map(str.strip, values))


def _bad(path: Path, what: str) -> UsageError:
    return UsageError("bad-table", what, str(path), "export it again, in UTF-8 with commas")


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a table, whole or not at all."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    write_text(path, text.getvalue())


def lines_of(numbers: Sequence[int]) -> str:
    """Lines of a file, in words."""
    more = f" and {len(numbers) - 1} more" if len(numbers) > 1 else ""
    return f"line {numbers[0]}{more}"


def require_csv(output: Path, inputs: Sequence[Path]) -> None:
    """Refuses a path where predictions cannot be written, before there are any.

    Args:
        output: the path.
        inputs: files that are read.

    Raises:
        UsageError: `bad-output` or `missing-folder`.
        Refused: `same-file`.
    """
    if output.suffix.lower() != ".csv":
        raise UsageError("bad-output", "predictions are a table", str(output), "name it .csv")
    if not output.parent.is_dir():
        raise UsageError("missing-folder", "no such folder", str(output.parent), "make it first")
    if output.resolve() in [path.resolve() for path in inputs]:
        raise Refused("same-file", "it would replace what is read", str(output), "name another")
    if output.name in {settings_of(task).listing for task in TASKS} and output.exists():
        raise Refused("same-file", "a hospital's table has that name", str(output), "name another")
