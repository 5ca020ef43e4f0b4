"""Decides whether another FLARE job resumes a run whose job was interrupted.

FLARE ends a job for good as soon as one of its processes dies. A run therefore consists of one or
more jobs, its attempts, each of which resumes from the checkpoints. The decision rests on FLARE's
records of jobs alone.

A run is not resumed if a person aborted it, if the orchestrator stopped it with a reason, or if
`PATIENCE` attempts in a row closed no round. A hospital is left out only if it broke `LEAVE_OUT`
attempts in a row and the study's quorum does not need it.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from consortium.orchestration.quorum import declare_quorum

OUTCOME = "consortium_outcome"
"""Key of a job's record: `complete`, the `reason` if it is not, and whether it was `stopped`."""
ATTEMPT = "consortium_attempt"
"""Key of the record of a job that resumes a run: an `Attempt`."""
NEXT = "consortium_next"
"""Key of the record of an interrupted job: the job that resumes its run."""
FAILED_SITE = "consortium_failed_site"
"""Key of the record of an interrupted job: the hospital whose process or answer ended it."""
LEAVE_OUT = 3
"""Number of jobs in a row that a hospital may break, each with fewer than `TRUST` closed rounds."""
TRUST = 5
"""Number of rounds after which a hospital is not blamed for breaking the job."""
PATIENCE = 5
"""Number of jobs in a row that may end without closing a round."""

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
    """One job of a run.

    Attributes:
        run: id of the run.
        number: number of the job in the run, from 1.
        rounds: number of rounds that were closed before it.
        stalled: number of jobs right before it that closed no round.
        failed_site: the hospital that broke the jobs right before it, each of which closed fewer
            than `TRUST` rounds; "" if there is none.
        times: number of these jobs.
        left_out: hospitals that are left out of the job.
    """

    run: str
    number: int = 1
    rounds: int = 0
    stalled: int = 0
    failed_site: str = ""
    times: int = 0
    left_out: tuple[str, ...] = ()


def attempt_of(record: Mapping[str, Any]) -> Attempt | None:
    """Reads which attempt of a run a job is; None if the job is not of this package."""
    section = record.get("consortium")
    if not isinstance(section, Mapping):
        return None
    if ATTEMPT in record:
        attempt = record[ATTEMPT]
        return Attempt(**{**attempt, "left_out": tuple(attempt.get("left_out", ()))})
    return Attempt(str(section.get("run") or record["job_id"]))


def is_broken(record: Mapping[str, Any]) -> bool:
    """Whether a job was interrupted and no other job has resumed its run yet."""
    attempt, status = attempt_of(record), str(record.get("status", ""))
    outcome = record.get(OUTCOME) or {}
    if attempt is None or not status.startswith("FINISHED") or status in _ENDS:
        return False
    if outcome.get("stopped") or record.get(NEXT):
        return False
    # A job that never ran was wrong from the start, unless its run had begun.
    return status != _FAILED_TO_RUN or attempt.number > 1


def follow(record: Mapping[str, Any], rounds: int) -> dict[str, Any] | None:
    """Returns the record of the job that resumes an interrupted one; None to give the run up.

    Args:
        record: record of the interrupted job.
        rounds: number of rounds in the run's last checkpoint.
    """
    attempt = attempt_of(record)
    assert attempt is not None
    following = {key: value for key, value in record.items() if key not in _RUNTIME}
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
    resumed = Attempt(
        attempt.run, attempt.number + 1, rounds, stalled, failed_site, times, left_out
    )
    return {**following, ATTEMPT: {**asdict(resumed), "left_out": list(left_out)}}


def why_given_up(record: Mapping[str, Any]) -> str:
    """Explains why `follow` gave a run up.

    Args:
        record: record of its last job.
    """
    attempt = attempt_of(record)
    reasons = [f"no-progress: {PATIENCE} jobs in a row ended without closing a round"]
    if record.get(FAILED_SITE):
        assert attempt is not None
        times = min(_times(attempt, record[FAILED_SITE]), PATIENCE)
        reasons.append(f"{record[FAILED_SITE]} broke the last {times} of them")
    outcome = record.get(OUTCOME) or {}
    if outcome.get("reason"):
        reasons.append(str(outcome["reason"]))
    return "; ".join(reasons)


def _times(attempt: Attempt, failed_site: str) -> int:
    """Counts the jobs in a row, up to this one, that a hospital broke; 0 if no hospital did."""
    return (attempt.times if failed_site == attempt.failed_site else 0) + 1 if failed_site else 0


def exclude_sites(
    deploy_map: Mapping[str, Any], hospitals: Collection[str], left_out: Collection[str]
) -> Mapping[str, Any]:
    """Removes hospitals from FLARE's map of apps to sites.

    Args:
        deploy_map: as submitted, or after an earlier exclusion.
        hospitals: the study's hospitals; `@ALL` stands for them and the server.
        left_out: the hospitals to remove.
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


def _does_without(record: Mapping[str, Any], absent: Collection[str]) -> bool:
    """Whether every round can be closed without these hospitals."""
    section = record["consortium"]
    hospitals = section.get("hospitals") or []
    if not hospitals:
        return False
    return declare_quorum(hospitals, section.get("quorum", {})).does_without(absent)
