"""Which patients stood behind the statistics that a hospital has stated, over all runs.

Two exact statistics whose patients differ by one give that patient's values away. `Statements`
therefore remembers the patients and values behind every statement, hashed with the hospital's own
salt. Invariant: any two statements on one subject rest on the same patients and values, or on ones
that differ by at least `smallest_group` patients.
"""

from collections.abc import Collection, Mapping
from typing import Any

from consortium.core.errors import Refused
from consortium.core.site_policy import Site
from consortium.core.site_record import fingerprint, open_record
from consortium.protocol.metrics import Score

STATEMENTS = "statements"
"""File of the statements in `Site.home`, without suffix."""

Values = Mapping[str, str]
"""A value of each patient, as text."""

_Statement = dict[str, str]
_Known = dict[str, list[_Statement]]
_Prints = Mapping[str, Mapping[str, tuple[str, str]]]


class Statements:
    """The statements of one hospital about one task's patients.

    Args:
        site: the hospital's own choices.
        task: name of the task.
    """

    def __init__(self, site: Site, task: str):
        self._site, self._task = site, task

    def settle(self, subject: str, values: Mapping[str, Values]) -> frozenset[str]:
        """Selects the patients of the next statement, and remembers them.

        Where some patients are new since an earlier statement, but fewer than the smallest group,
        the new ones wait: the statement is about the earlier patients.

        Args:
            subject: what the statement is about, such as `training`.
            values: for each column that it rests on, the value of each patient; all columns have
                the same patients.

        Raises:
            Refused: `statement-too-close`, if fewer patients than the smallest group have left or
                have another value.
        """
        with open_record(self._site.home, STATEMENTS) as record:
            known = record.setdefault(self._task, {})
            prints = _prints(record, subject, values)
            patients = frozenset(next(iter(values.values()), {}))
            while (close := self._too_close(known, prints, patients)) is not None:
                column, earlier = close
                kept = frozenset(
                    patient
                    for patient in patients
                    if earlier.get(prints[column][patient][0]) == prints[column][patient][1]
                )
                if len(kept) < len(earlier):
                    raise self._refused(subject)
                patients = kept
            _remember(known, prints, patients)
            return patients

    def allows(self, subject: str, values: Mapping[str, Values]) -> bool:
        """Whether a statement may rest on exactly these patients; remembers them if so.

        Args:
            subject: see `settle`.
            values: see `settle`.
        """
        patients = frozenset(next(iter(values.values()), {}))
        with open_record(self._site.home, STATEMENTS) as record:
            known = record.setdefault(self._task, {})
            prints = _prints(record, subject, values)
            if self._too_close(known, prints, patients) is not None:
                return False
            _remember(known, prints, patients)
            return True

    def _too_close(
        self, known: _Known, prints: _Prints, patients: frozenset[str]
    ) -> tuple[str, _Statement] | None:
        """Finds an earlier statement from which this one differs by too few patients."""
        for column, of_patients in prints.items():
            now = dict(of_patients[patient] for patient in patients)
            for earlier in known.get(column, []):
                both = earlier.keys() | now.keys()
                changed = sum(earlier.get(key) != now.get(key) for key in both)
                if 0 < changed < self._site.smallest_group:
                    return column, earlier
        return None

    def _refused(self, subject: str) -> Refused:
        return Refused(
            "statement-too-close",
            f"fewer than {self._site.smallest_group} patients ({subject}) have changed since an"
            " earlier statement, some of whom are gone or have another value",
            str(self._site.home / f"{STATEMENTS}.json"),
            "wait until more have changed; removing this file forgets what was stated, so that a"
            " patient's values may be derived",
        )


def _prints(record: dict[str, Any], subject: str, values: Mapping[str, Values]) -> _Prints:
    """Hashes patients and values; by subject and column, then by patient."""
    return {
        f"{subject}/{column}": {
            patient: (fingerprint(record, patient), fingerprint(record, patient, value))
            for patient, value in of_patients.items()
        }
        for column, of_patients in values.items()
    }


def _remember(known: _Known, prints: _Prints, patients: frozenset[str]) -> None:
    for column, of_patients in prints.items():
        statement = dict(sorted(of_patients[patient] for patient in patients))
        if statement not in known.setdefault(column, []):
            known[column].append(statement)


def settle_validation(
    site: Site, task: str, patients: Collection[str], classes: Collection[Collection[str]] = ()
) -> tuple[frozenset[str], Score | None]:
    """Selects the validation patients behind the scores; see `Statements.settle`.

    The number of patients of a class is a statement too, whatever a job calls the class.

    Args:
        site: the hospital's own choices.
        task: name of the task.
        patients: the validation patients.
        classes: the patients of each class.

    Returns:
        The patients, and the score to report if it must be withheld.
    """
    smallest, statements = site.smallest_group, Statements(site, task)
    if len(patients) < smallest:
        return frozenset(patients), None
    withheld = Score(withheld=f"fewer than {smallest} patients changed")
    try:
        settled = statements.settle("validation", {"patients": dict.fromkeys(patients, "")})
    except Refused:
        return frozenset(patients), withheld
    for members in classes:
        counted = settled.intersection(members)
        told = len(counted) >= smallest
        if told and not statements.allows("validation", {"class": dict.fromkeys(counted, "")}):
            return settled, withheld
    return settled, None
