"""Which columns of a hospital's table a job may read, and which ranges and values they have.

The hospital decides both in `privacy.columns`. A job's own ranges and values may be wider, never
narrower: whether a narrower one fits would tell the youngest patient's age, or whether anybody has
a rare value. Every comparison here is of the job's settings and the hospital's file alone.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from consortium.core.errors import Refused
from consortium.core.site_policy import Columns
from consortium.tasks.tables import FEWEST_PATIENTS, MISSING, PATIENT, SPLIT, PatientTable

_MOST_VALUES = 20  # of a category; a column of more texts is left out of a proposal
_FEW_VALUES = 5  # a column of numbers with no more distinct ones is a category


def require_column(columns: Columns, name: str) -> Sequence[float] | Sequence[str] | None:
    """Refuses a column that the hospital does not list.

    Returns:
        The hospital's range or values; None if it releases all columns.

    Raises:
        Refused: `data-unfit`.
    """
    if isinstance(columns, str):
        return None
    if name not in columns:
        raise _unfit(f"the job reads the column {name}, which privacy.columns does not list")
    return columns[name]


def require_range(columns: Columns, name: str, low: float, high: float) -> list[float]:
    """Returns the hospital's range of a column of numbers.

    Args:
        columns: the hospital's choice.
        name: of the column.
        low: the lowest value that the job takes.
        high: the highest value that the job takes.

    Raises:
        Refused: `data-unfit`, if the column is not listed, holds categories, or has a wider range.
    """
    listed = require_column(columns, name)
    if listed is None:
        return [low, high]
    own = [value for value in listed if not isinstance(value, str)]
    if len(own) < len(listed):
        raise _unfit(f"the job takes {name} for a number, privacy.columns for a category")
    if low > own[0] or high < own[1]:
        raise _unfit(f"the job's range of {name} is narrower than in privacy.columns")
    return own


def require_values(columns: Columns, name: str, values: Sequence[str]) -> list[str]:
    """Returns the hospital's values of a category, as the job writes them.

    Args:
        columns: the hospital's choice.
        name: of the column.
        values: the values that the job takes.

    Raises:
        Refused: `data-unfit`, if the column is not listed, holds numbers, or has further values.
    """
    listed = require_column(columns, name)
    if listed is None:
        return list(values)
    own = [canonical_value(value, values) for value in listed if isinstance(value, str)]
    if len(own) < len(listed):
        raise _unfit(f"the job takes {name} for a category, privacy.columns for a number")
    if not set(own) <= set(values):
        raise _unfit(f"the job lacks values of {name} that privacy.columns lists")
    return own


def _unfit(what: str) -> Refused:
    return Refused(
        "data-unfit",
        what,
        "local/hospital.json",
        "add the column there if jobs may read it; consortium check-data --propose lists columns",
    )


def canonical_value(text: str, known: Sequence[str]) -> str:
    """The known value that is the same number, as 1 is for 1.0; without one, the text itself."""
    if text in known:
        return text
    number = _to_number(text)
    return next(
        (value for value in known if number is not None and _to_number(value) == number), text
    )


def _to_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


@dataclass(slots=True)
class Proposal:
    """Columns that jobs may read, for the hospital's review.

    Attributes:
        columns: for `privacy.columns`.
        notes: what the hospital should look at, a sentence each.
    """

    columns: dict[str, list[float] | list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def propose_columns(table: PatientTable, leave_out: Sequence[str] = ()) -> Proposal:
    """Proposes a range or the values of each column of a table.

    Ranges are rounded outwards, so that they do not tell the lowest and the highest value.

    Args:
        table: the hospital's table.
        leave_out: columns that are not proposed, besides those of the patient and the split.
    """
    proposal = Proposal()
    for name in table.columns:
        if name in (PATIENT, SPLIT, *leave_out):
            continue
        counts = Counter(row[name] for row in table.rows if row[name] not in MISSING)
        numbers = [number for text in counts if (number := _to_number(text)) is not None]
        finite = bool(counts) and len(numbers) == len(counts) and all(map(math.isfinite, numbers))
        if finite and len(counts) > _FEW_VALUES:
            proposal.columns[name] = _rounded(min(numbers), max(numbers))
        elif counts and len(counts) <= _MOST_VALUES:
            proposal.columns[name] = sorted(counts)
            proposal.notes += [
                f"{name}: {value} has fewer than {FEWEST_PATIENTS} patients"
                for value in sorted(counts)
                if counts[value] < FEWEST_PATIENTS
            ]
        else:
            proposal.notes.append(f"{name} is left out: it is empty, or has too many texts")
    return proposal


def _rounded(low: float, high: float) -> list[float]:
    """Rounds a range outwards to 0, or to 1, 2 or 5 times a power of ten."""
    lowest = -_round_up(-low) if low < 0 else 0.0
    return [lowest, _round_up(high) if high > 0 else 0.0]


def _round_up(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10, 20) if step * power > value)
