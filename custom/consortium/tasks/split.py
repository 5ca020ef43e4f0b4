"""Splits a hospital's patients into training and validation, for every task.

The split of a patient depends on the patient's id alone: adding patients moves none of the others.
The split is the hospital's: `SiteSplit` keeps it from the first job on, so that no two jobs of
different settings differ by the patients on a side.
"""

import hashlib
from collections.abc import Callable, Collection
from typing import Any

from consortium.core.errors import Refused
from consortium.core.site_policy import Site
from consortium.core.site_record import fingerprint, open_record

SPLIT_RECORD = "split"
"""File of the splits in `Site.home`, without suffix. A hospital that removes it splits afresh."""

ChooseValidation = Callable[[Collection[str], Collection[str], float], set[str]]
"""Selects the validation patients; see `validation_patients` for the arguments."""


def hash_fraction(patient: str) -> float:
    """Maps a patient's id to a number in [0, 1) by SHA-256."""
    return int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "big") / 2**64


def validation_patients(
    patients: Collection[str], named: Collection[str], validation_fraction: float
) -> set[str]:
    """Selects the patients for validation, who never train; see `split_cases`.

    Args:
        patients: patients of one hospital.
        named: validation patients in the hospital's own list; if any, the hash is not used.
        validation_fraction: share of patients, in [0, 1]; 0 selects nobody.
    """
    return set(named) or _place(patients, validation_fraction, trained=False, validated=False)


def _place(
    patients: Collection[str], fraction: float, *, trained: bool, validated: bool
) -> set[str]:
    """Selects the validation patients among new ones, so that no side stays empty.

    Args:
        patients: those who have no side yet.
        fraction: share of patients, in [0, 1]; 0 selects nobody.
        trained: whether others train already.
        validated: whether others validate already.
    """
    ordered = sorted(patients, key=hash_fraction)
    chosen = {patient for patient in ordered if hash_fraction(patient) < fraction}
    if fraction == 0 or not ordered or len(ordered) + trained + validated < 2:
        return set()
    if not chosen and not validated:
        chosen = {ordered[0]}
    if len(chosen) == len(ordered) and not trained:
        chosen.remove(ordered[-1])
    return chosen


class SiteSplit:
    """A hospital's split of one task's patients, fixed by the first job.

    A data set is known by its patients: a folder that holds none of those of before is a new one.

    Args:
        site: the hospital's own choices.
        task: name of the task.
    """

    def __init__(self, site: Site, task: str):
        self._home, self._task = site.home, task

    def __call__(
        self, patients: Collection[str], named: Collection[str], validation_fraction: float
    ) -> set[str]:
        """Selects the validation patients; see `validation_patients`.

        Raises:
            Refused: `other-split`, if the job's fraction is not that of the first job.
        """
        if named:
            return set(named)
        with open_record(self._home, SPLIT_RECORD) as record:
            ids = {patient: fingerprint(record, patient) for patient in patients}
            sets = record.setdefault(self._task, [])
            split = next((known for known in sets if known["sides"].keys() & ids.values()), None)
            if split is None:
                split = {"fraction": validation_fraction, "sides": {}}
                sets.append(split)
            elif split["fraction"] != validation_fraction:
                raise self._other_split(split["fraction"], validation_fraction)
            return _extend(split["sides"], ids, validation_fraction)

    def _other_split(self, fixed: float, wanted: float) -> Refused:
        return Refused(
            "other-split",
            f"data.validation_fraction {wanted:g} would move patients; the split here was made with"
            f" {fixed:g}",
            str(self._home / f"{SPLIT_RECORD}.json"),
            f"set data.validation_fraction to {fixed:g}; removing this file makes the split afresh",
        )


def _extend(sides: dict[str, Any], ids: dict[str, str], fraction: float) -> set[str]:
    """Gives the new patients a side; returns the validation patients."""
    new = [patient for patient, number in ids.items() if number not in sides]
    present = [sides[number] for number in ids.values() if number in sides]
    chosen = _place(new, fraction, trained=0 in present, validated=1 in present)
    for patient in new:
        sides[ids[patient]] = int(patient in chosen)
    return {patient for patient, number in ids.items() if sides[number]}
