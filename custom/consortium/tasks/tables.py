"""Reads and writes tables of patients: CSV files with a header."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from consortium.core.errors import Refused, UsageError
from consortium.core.files import write_text
from consortium.core.plain_files import read_plain
from consortium.tasks.registry import TASKS, settings_of

PATIENT, SPLIT = "patient", "split"
SIDES = ("training", "validation")
FEWEST_PATIENTS = 5
MISSING = ("", "?")

MAX_TABLE = 256 << 20
"""Bytes that a table may have."""
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
"""Characters with which a formula begins; the last four are their full-width forms."""
_CONTROL = tuple("\t\r\n")
_OTHER_MARKS = ";\t\r"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")

Row = dict[str, str]


@dataclass(frozen=True, slots=True)
class PatientTable:
    """The content of a table.

    Attributes:
        path: path of the file.
        columns: names of the columns, in the order of the file.
        rows: values by column, stripped of blanks.
        lines: number of the last line of each row in the file.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    lines: tuple[int, ...]


def read_table(path: Path, usual: str) -> PatientTable:
    """Reads a table.

    Args:
        path: path of the file, or of the folder that holds it under its usual name.
        usual: the usual name.

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
        content = read_plain(path, MAX_TABLE).decode("utf-8-sig")
        reader = csv.reader(io.StringIO(content, newline=""), strict=True)
        lines = [(reader.line_num, values) for values in reader if not _is_blank(values)]
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise _bad(path, f"it cannot be read ({type(problem).__name__})") from None
    columns = tuple(name.strip() for name in lines[0][1]) if lines else ()
    if len(columns) == 1 and re.search("[;\t]", columns[0]):
        raise _bad(path, "its columns are not separated by commas")
    if not columns or len(set(columns)) < len(columns):
        raise _bad(path, "its header is missing or names a column twice")
    for number, values in lines[1:]:
        if len(values) != len(columns):
            raise _bad(path, f"line {number} has {len(values)} values, the header {len(columns)}")
    if len(lines) < 2:
        raise UsageError("empty-hospital", "it lists no patients", str(path), "list them")
    rows = (dict(zip(columns, map(str.strip, values), strict=True)) for _, values in lines[1:])
    return PatientTable(path, columns, tuple(rows), tuple(number for number, _ in lines[1:]))


def _is_blank(values: Sequence[str]) -> bool:
    """Whether a line is empty or holds blanks alone."""
    return len(values) <= 1 and not any(map(str.strip, values))


def _bad(path: Path, what: str) -> UsageError:
    return UsageError("bad-table", what, str(path), "export it again, in UTF-8 with commas")


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a table, atomically; no cell is a formula to a spreadsheet."""
    write_text(path, table_text(columns, rows))


def table_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns the text of a table in which no cell is a formula to a spreadsheet."""
    cells = [[_no_formula(str(cell)) for cell in row] for row in (columns, *rows)]
    # Unquoted, a spreadsheet that splits at these would find further cells.
    split = any(mark in cell for row in cells for cell in row for mark in _OTHER_MARKS)
    text = io.StringIO()
    csv.writer(
        text, lineterminator="\n", quoting=csv.QUOTE_ALL if split else csv.QUOTE_MINIMAL
    ).writerows(cells)
    return text.getvalue()


def _no_formula(cell: str) -> str:
    """Puts an apostrophe before what a spreadsheet would compute; a number stays."""
    computed = cell.lstrip()[:1] in _FORMULA or cell[:1] in _CONTROL
    return f"'{cell}" if computed and not _NUMBER.fullmatch(cell) else cell


def lines_of(numbers: Sequence[int]) -> str:
    """Formats line numbers for a message: "line 3 and 2 more"."""
    more = f" and {len(numbers) - 1} more" if len(numbers) > 1 else ""
    return f"line {numbers[0]}{more}"


def require_csv(output: Path, inputs: Sequence[Path]) -> None:
    """Refuses an output path that cannot be written, before any prediction is made.

    Args:
        output: path of the predictions.
        inputs: files that are read.

    Raises:
        UsageError: `bad-output` or `missing-folder`.
        Refused: `same-file`.
    """
    if output.suffix.lower() != ".csv":
        raise UsageError(
            "bad-output", "predictions are a CSV table", str(output), "name a .csv file"
        )
    if not output.parent.is_dir():
        raise UsageError("missing-folder", "no such folder", str(output.parent), "create it first")
    if output.resolve() in [path.resolve() for path in inputs]:
        raise Refused("same-file", "it would replace the input", str(output), "name another file")
    if output.name in {settings_of(task).listing for task in TASKS} and output.exists():
        raise Refused(
            "same-file", "it would replace a hospital's table", str(output), "name another file"
        )
