"""Finds hospitals whose updates were refused or held back round after round.

A robust rule works in silence. This module names the hospitals that it held back, with numbers, so
that people can ask: such a hospital may be hostile, faulty, or the only one with certain patients.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from consortium.orchestration.records import RoundRecord

HELD_BACK = 0.5
"""A hospital that keeps less of its weight than this is held back in a round."""
FAR = 3.0
"""An update this many times further from the aggregate than the median update is held back."""
_MIN_ROUNDS = 3  # and at least half of the hospital's rounds


@dataclass(frozen=True, slots=True)
class FlaggedHospital:
    """A hospital that was refused or held back too often.

    Attributes:
        hospital: its name.
        rounds: number of rounds in which its update was accepted or refused.
        refused: number of these rounds in which it was refused and not accepted later.
        held_back: number of these rounds in which its update was accepted and held back.
        kept: smallest share of its weight that it kept; null if the rule computes none.
        distance: largest distance of its update from the aggregate; null if the rule computes none.
    """

    hospital: str
    rounds: int
    refused: int
    held_back: int
    kept: float | None
    distance: float | None


def find_flagged(records: Sequence[RoundRecord]) -> list[FlaggedHospital]:
    """Finds hospitals that were refused or held back in half of their rounds, at least in three.

    A run of fewer rounds flags a hospital that was refused or held back in all of them.
    """
    flagged = []
    for hospital in sorted({name for record in records for name in record.asked}):
        accepted = [
            record.treatment.get(hospital) for record in records if hospital in record.answered
        ]
        refused = sum(
            hospital not in record.answered
            and any(refusal.hospital == hospital for refusal in record.refused)
            for record in records
        )
        treatments = [treatment for treatment in accepted if treatment is not None]
        kept = [item["kept"] for item in treatments if item["kept"] is not None]
        distances = [item["distance"] for item in treatments if item["distance"] is not None]
        held_back = sum(
            (item["kept"] is not None and item["kept"] < HELD_BACK)
            or (item["distance"] is not None and item["distance"] > FAR)
            for item in treatments
        )
        rounds, affected = len(accepted) + refused, refused + held_back
        if affected and 2 * affected >= rounds and affected >= min(_MIN_ROUNDS, len(records)):
            flagged.append(
                FlaggedHospital(
                    hospital,
                    rounds,
                    refused,
                    held_back,
                    min(kept, default=None),
                    max(distances, default=None),
                )
            )
    return flagged
