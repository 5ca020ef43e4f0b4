"""A run is longer than a FLARE job: a chain of jobs, each of which goes on from the journal.

FLARE ends a job for good as soon as one process of it dies. What is decided here, from FLARE's
records of jobs alone: whether a job that ended is to be followed by another one, and by which.

What always holds: a run that a person aborted, that our own orchestrator stopped with a reason, or
that did not get further in `PATIENCE` jobs in a row, is not gone on with.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

OUTCOME = "consortium_outcome"
"""Key of a job's record: `complete`; `reason` where the run is not; whether it was `stopped`."""
CHAIN = "consortium_chain"
"""Key of a job's record that goes on with a run: a `Link`."""
NEXT = "consortium_next"
"""Key of a job's record that was broken off: the job that goes on with its run."""
PATIENCE = 5
"""Jobs in a row that may end without having closed a round."""

_RUNTIME = (
    "job_id",
    "status",
    "submit_time",
    "submit_time_iso",
    "start_time",
    "duration",
    "job_deploy_detail",
    "schedule_count",
    "last_schedule_time",
    "schedule_history",
    OUTCOME,
    CHAIN,
    NEXT,
)
_FAILED_TO_RUN = "FINISHED:FAILED_TO_RUN"
_ENDS = ("FINISHED:COMPLETED", "FINISHED:ABORTED", "FINISHED:CAN'T SCHEDULE")


@dataclass(frozen=True, slots=True)
class Link:
    """A job's place in its run.

    Attributes:
        run: id of the run.
        number: of the job in it, from 1.
        rounds: that were closed before it.
        stalled: jobs right before it that closed none.
    """

    run: str
    number: int = 1
    rounds: int = 0
    stalled: int = 0


def link_of(record: Mapping[str, Any]) -> Link | None:
    """A job's place in its run; None where the job is none of ours."""
    ours = record.get("consortium")
    if not isinstance(ours, Mapping):
        return None
    if CHAIN in record:
        return Link(**record[CHAIN])
    return Link(str(ours.get("run") or record["job_id"]))


def is_broken(record: Mapping[str, Any]) -> bool:
    """Whether a job was broken off and nothing has come after it yet."""
    link, status = link_of(record), str(record.get("status", ""))
    outcome = record.get(OUTCOME) or {}
    if link is None or not status.startswith("FINISHED") or status in _ENDS:
        return False
    if outcome.get("stopped") or record.get(NEXT):
        return False
    # What never ran was wrong from the start, but for a run that was on its way.
    return status != _FAILED_TO_RUN or link.number > 1


def follow(record: Mapping[str, Any], rounds: int) -> dict[str, Any] | None:
    """The record of the job that goes on after a broken one; None where it is not worth it.

    Args:
        record: of the job that was broken off.
        rounds: that the run's journal holds.
    """
    link = link_of(record)
    assert link is not None
    stalled = 0 if rounds > link.rounds else link.stalled + 1
    if stalled >= PATIENCE:
        return None
    more = asdict(Link(link.run, link.number + 1, rounds, stalled))
    return {**{key: said for key, said in record.items() if key not in _RUNTIME}, CHAIN: more}
