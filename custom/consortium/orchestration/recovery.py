"""A run is longer than a FLARE job: a chain of jobs, each of which goes on from the checkpoints.

FLARE ends a job for good as soon as one process of it dies. What is decided here, from FLARE's
records of jobs alone: whether a job that ended is to be followed by another one, and by which.

What always holds: a run that a person aborted, that our own orchestrator stopped with a reason, or
that did not get further in `PATIENCE` jobs in a row, is not gone on with; and a hospital is left
out only where it broke `LEAVE_OUT` jobs in a row and the study's quorum does without it.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from consortium.orchestration.quorum import declare_quorum

OUTCOME = "consortium_outcome"
"""Key of a job's record: `complete`; `reason` where the run is not; whether it was `stopped`."""
ATTEMPT = "consortium_attempt"
"""Key of a job's record that goes on with a run: a `Attempt`."""
NEXT = "consortium_next"
"""Key of a job's record that was broken off: the job that goes on with its run."""
FAILED_SITE = "consortium_failed_site"
"""Key of a job's record that was broken off: the hospital whose process ended it."""
LEAVE_OUT = 3
"""Jobs in a row that a hospital may break, each of which closed fewer than `TRUST` rounds."""
TRUST = 5
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
    FAILED_SITE,
    ATTEMPT,
    NEXT,
)
_FAILED_TO_RUN = "FINISHED:FAILED_TO_RUN"
_ENDS = ("FINISHED:COMPLETED", "FINISHED:ABORTED", "FINISHED:CAN'T SCHEDULE")


@dataclass(frozen=True, slots=True)
class Attempt:
    """A job's place in its run.

    Attributes:
        run: id of the run.
        number: of the job in it, from 1.
        rounds: that were closed before it.
        stalled: jobs right before it that closed none.
        failed_site: the hospital that broke the jobs right before it, each of which closed fewer
            than `TRUST` rounds; "" where none did.
        times: how many of them.
        left_out: hospitals that it does without.
    """

    run: str
    number: int = 1
    rounds: int = 0
    stalled: int = 0
    failed_site: str = ""
    times: int = 0
    left_out: tuple[str, ...] = ()


def attempt_of(record: Mapping[str, Any]) -> Attempt | None:
    """A job's place in its run; None where the job is none of ours."""
    ours = record.get("consortium")
    if not isinstance(ours, Mapping):
        return None
    if ATTEMPT in record:
        said = record[ATTEMPT]
        return Attempt(**{**said, "left_out": tuple(said.get("left_out", ()))})
    return Attempt(str(ours.get("run") or record["job_id"]))


def is_broken(record: Mapping[str, Any]) -> bool:
    """Whether a job was broken off and nothing has come after it yet."""
    attempt, status = attempt_of(record), str(record.get("status", ""))
    outcome = record.get(OUTCOME) or {}
    if attempt is None or not status.startswith("FINISHED") or status in _ENDS:
        return False
    if outcome.get("stopped") or record.get(NEXT):
        return False
    # What never ran was wrong from the start, but for a run that was on its way.
    return status != _FAILED_TO_RUN or attempt.number > 1


def follow(record: Mapping[str, Any], rounds: int) -> dict[str, Any] | None:
    """The record of the job that goes on after a broken one; None where it is not worth it.

    Args:
        record: of the job that was broken off.
        rounds: that the run's checkpoints holds.
    """
    attempt = attempt_of(record)
    assert attempt is not None
    following = {key: said for key, said in record.items() if key not in _RUNTIME}
    closed = rounds - attempt.rounds
    stalled = 0 if closed > 0 else attempt.stalled + 1
    failed_site = str(record.get(FAILED_SITE) or "") if closed < TRUST else ""
    times, left_out = _times(attempt, failed_site), attempt.left_out
    if times >= LEAVE_OUT and _does_without(record, {*left_out, failed_site}):
        stalled, times, left_out = 0, 0, (*left_out, failed_site)
        failed_site = ""
        hospitals = record["consortium"]["hospitals"]
        following["deploy_map"] = exclude_sites(record["deploy_map"], hospitals, left_out)
    if stalled >= PATIENCE:
        return None
    more = Attempt(attempt.run, attempt.number + 1, rounds, stalled, failed_site, times, left_out)
    return {**following, ATTEMPT: {**asdict(more), "left_out": list(left_out)}}


def why_given_up(record: Mapping[str, Any]) -> str:
    """Why `follow` gave a run up, in words.

    Args:
        record: of its last job.
    """
    attempt = attempt_of(record)
    told = [f"no-progress: {PATIENCE} jobs in a row ended without closing a round"]
    if record.get(FAILED_SITE):
        assert attempt is not None
        times = min(_times(attempt, record[FAILED_SITE]), PATIENCE)
        told.append(f"{record[FAILED_SITE]} broke the last {times} of them")
    outcome = record.get(OUTCOME) or {}
    if outcome.get("reason"):
        told.append(str(outcome["reason"]))
    return "; ".join(told)


def _times(attempt: Attempt, failed_site: str) -> int:
    """How many jobs in a row a hospital has broken with this one; 0 where none did."""
    return (attempt.times if failed_site == attempt.failed_site else 0) + 1 if failed_site else 0


def exclude_sites(
    deploy_map: Mapping[str, Any], hospitals: Collection[str], left_out: Collection[str]
) -> Mapping[str, Any]:
    """FLARE's map of apps to sites without some hospitals.

    Args:
        deploy_map: as submitted, or as narrowed before.
        hospitals: that the study declares; `@ALL` stands for them and the server.
        left_out: of them.
    """
    if not left_out:
        return deploy_map
    everyone = ["server", *sorted(hospitals)]
    return {
        app: [
            site for site in (everyone if "@ALL" in sites else sites) if site not in set(left_out)
        ]
        for app, sites in deploy_map.items()
    }


def _does_without(record: Mapping[str, Any], gone: Collection[str]) -> bool:
    """Whether every round can be closed without these hospitals."""
    ours = record["consortium"]
    hospitals = ours.get("hospitals") or []
    if not hospitals:
        return False
    quorum = declare_quorum(hospitals, ours.get("quorum", {}))
    asked = quorum.clients_per_round or len(hospitals)
    return asked - len(gone) >= quorum.minimum and not set(gone) & set(quorum.mandatory)
