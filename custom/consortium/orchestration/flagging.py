"""Finds hospitals whose updates were refused or held back, or whose score parts from the others'.

A robust rule works in silence, and a false score decides in silence which model is kept. This
module names such hospitals, with numbers, so that people can ask: a hospital may be hostile,
faulty, or the only one with certain patients.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from consortium.orchestration.exclusion import LEFT_OUT
from consortium.orchestration.records import RoundRecord

HELD_BACK = 0.5
"""A hospital that keeps less of its weight than this is held back in a round."""
FAR = 3.0
"""An update this many times further from the aggregate than the median update is held back."""
PARTED = 0.05
"""A score parts from the others' if it falls by more than this while they rise by more, or the
other way round, since the hospital's first score."""
_MIN_ROUNDS = 3  # and at least half of the hospital's rounds


@dataclass(frozen=True, slots=True)
class FlaggedHospital:
    """A hospital that was refused or held back too often, or whose score parts from the others'.

    Attributes:
        hospital: its name.
        rounds: number of rounds in which its update was accepted or refused.
        refused: number of these rounds in which it was refused and not accepted later.
        held_back: number of these rounds in which its update was accepted and held back.
        kept: smallest share of its weight that it kept; null if the rule computes none.
        distance: largest distance of its update from the aggregate; null if the rule computes none.
        parted: number of models up to the last one, in a row, by which its score fell while the
            others' rose, or the other way round; 0 if it does not part from them for good.
    """

    hospital: str
    rounds: int
    refused: int
    held_back: int
    kept: float | None
    distance: float | None
    parted: int = 0


def find_flagged(
    records: Sequence[RoundRecord], scores: Sequence[Mapping[str, float]] = ()
) -> list[FlaggedHospital]:
    """Finds hospitals that were refused or held back in half of their rounds, at least in three.

    A run of fewer rounds flags a hospital that was refused or held back in all of them. The same
    holds for the models by which a hospital's score parts from the others'. A hospital that is left
    out because it was refused is flagged too.

    Args:
        records: of all rounds.
        scores: of each model in order, by hospital, from 0 to 1.
    """
    flagged = []
    names = {name for record in records for name in record.asked}
    for hospital in sorted(names.union(*scores)):
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
        often = 2 * affected >= rounds and affected >= min(_MIN_ROUNDS, len(records))
        often |= any(record.failures.get(hospital) == LEFT_OUT for record in records)
        parted = _count_parted(hospital, scores)
        if (affected and often) or parted:
            flagged.append(
                FlaggedHospital(
                    hospital,
                    rounds,
                    refused,
                    held_back,
                    min(kept, default=None),
                    max(distances, default=None),
                    parted,
                )
            )
    return flagged


def _count_parted(hospital: str, scores: Sequence[Mapping[str, float]]) -> int:
    """Counts the models up to the last one by which a score parts from the others' for good."""
    own = [model for model in scores if hospital in model]
    if not own:
        return 0
    first, later = own[0], own[1:]
    parted = 0
    for model in reversed(later):
        others = [name for name in model.keys() & first.keys() if name != hospital]
        if not others:
            break
        change = model[hospital] - first[hospital]
        rest = sum(model[name] - first[name] for name in sorted(others)) / len(others)
        if min(abs(change), abs(rest)) < PARTED or (change > 0) == (rest > 0):
            break
        parted += 1
    enough = 2 * parted >= len(later) and parted >= min(_MIN_ROUNDS, len(later))
    return parted if enough else 0
