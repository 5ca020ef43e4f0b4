"""Excludes hospitals whose updates are refused round after round from the rest of a run.

Everybody else waits for such a hospital in every round. The quorum decides whether the run goes on
without it. It stays among the hospitals that each round should have asked, so the run is not called
complete and the reason names it.
"""

from collections.abc import Sequence

from consortium.orchestration.quorum import Quorum
from consortium.orchestration.records import RoundRecord

LEFT_OUT = "left-out"
"""Code of a hospital that a round does not ask because it is excluded."""


def excluded_hospitals(
    records: Sequence[RoundRecord], quorum: Quorum, left_out: Sequence[str] = ()
) -> tuple[str, ...]:
    """Returns the hospitals that are not asked any more, sorted.

    Args:
        records: of all rounds so far.
        quorum: a hospital that was refused in `max_attempts` rounds in a row, and accepted in none
            of them, is excluded if every round can be closed without it.
        left_out: hospitals that are excluded from the start.
    """
    excluded, refused = set(left_out), dict.fromkeys(quorum.hospitals, 0)
    for record in records:
        # What comes late was not refused for what it is.
        faulty = {refusal.hospital for refusal in record.refused if refusal.code != "late"}
        for name in sorted(set(record.asked) & refused.keys()):
            if name in record.answered:
                refused[name] = 0
            elif name in faulty:
                refused[name] += 1
            if refused[name] >= quorum.max_attempts and quorum.does_without({*excluded, name}):
                excluded.add(name)
    return tuple(sorted(excluded))
