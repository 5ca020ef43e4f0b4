"""Hospitals whose updates were refused or held back round after round.

A robust rule works in silence. Here it is said whom it worked against, with numbers, so that people
can ask: such a hospital may be hostile, faulty, or the only one with patients of a kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from consortium.orchestration.records import RoundRecord

HELD_BACK = 0.5
"""A hospital that keeps less of its weight than this is held back in a round."""
FAR = 3.0
"""So is one whose update is this many times further from the aggregate than the median one."""
_LEAST = 3  # rounds, of which it must be at least half


@dataclass(frozen=True, slots=True)
class FlaggedHospital:
    """A hospital that stands out.

    Attributes:
        hospital: its name.
        rounds: in which its update was taken or refused.
        refused: of these, in which it was refused and not taken after all.
        held_back: of these, in which its update was taken and held back.
        kept: the smallest part of its weight that it kept; null where the rule knows none.
        distance: of its update from the aggregate, the largest; null where the rule knows none.
    """

    hospital: str
    rounds: int
    refused: int
    held_back: int
    kept: float | None
    distance: float | None


def find_flagged(records: Sequence[RoundRecord]) -> list[FlaggedHospital]:
    """Who was refused or held back in half of its rounds or more, and in three (or all) of them."""
    found = []
    for hospital in sorted({name for record in records for name in record.asked}):
        taken = [
            record.treatment.get(hospital) for record in records if hospital in record.answered
        ]
        refused = sum(
            hospital not in record.answered
            and any(refusal.hospital == hospital for refusal in record.refused)
            for record in records
        )
        treated = [treatment for treatment in taken if treatment is not None]
        kept = [one["kept"] for one in treated if one["kept"] is not None]
        distances = [one["distance"] for one in treated if one["distance"] is not None]
        held_back = sum(
            (one["kept"] is not None and one["kept"] < HELD_BACK)
            or (one["distance"] is not None and one["distance"] > FAR)
            for one in treated
        )
        rounds, out = len(taken) + refused, refused + held_back
        if out and 2 * out >= rounds and out >= min(_LEAST, len(records)):
            found.append(
                FlaggedHospital(
                    hospital,
                    rounds,
                    refused,
                    held_back,
                    min(kept, default=None),
                    max(distances, default=None),
                )
            )
    return found
