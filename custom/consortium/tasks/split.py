"""Splits a hospital's patients into training and validation, for every task.

The split of a patient depends on the patient's id alone: adding patients moves none of the others.
"""

import hashlib
from collections.abc import Collection


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
    chosen = set(named)
    if not chosen and validation_fraction > 0 and len(patients) > 1:
        ordered = sorted(patients, key=hash_fraction)
        chosen = {patient for patient in ordered if hash_fraction(patient) < validation_fraction}
        chosen = (chosen or {ordered[0]}) - (
            {ordered[-1]} if len(chosen) == len(ordered) else set()
        )
    return chosen
