"""Which patients of a hospital train and which validate, whatever the task.

A side is a function of the patient's id alone: adding patients moves none of the others.
"""

import hashlib
from collections.abc import Collection


def hash_fraction(patient: str) -> float:
    """A number in [0, 1) that depends on the patient's id alone (sha256)."""
    return int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "big") / 2**64


def validation_patients(
    patients: Collection[str], named: Collection[str], validation_fraction: float
) -> set[str]:
    """Those who validate and never train; see `split_cases`.

    Args:
        patients: of one hospital.
        named: whom its own list names; where there are any, the hash has no say.
        validation_fraction: in [0, 1]; 0 validates nobody.
    """
    chosen = set(named)
    if not chosen and validation_fraction > 0 and len(patients) > 1:
        ordered = sorted(patients, key=hash_fraction)
        chosen = {patient for patient in ordered if hash_fraction(patient) < validation_fraction}
        chosen = (chosen or {ordered[0]}) - (
            {ordered[-1]} if len(chosen) == len(ordered) else set()
        )
    return chosen
