"""Decides whether another FLARE job resumes a run whose job was interrupted.

FLARE ends a job for good as soon as one of its processes dies. A run therefore consists of one or
more jobs, its attempts, each of which resumes from the checkpoints. The decision rests on FLARE's
records of jobs alone.

A run is not resumed if a person aborted it, if the orchestrator stopped it with a reason, or if
`PATIENCE` attempts in a row closed no round. A hospital is left out only if it broke `LEAVE_OUT`
attempts in a row and the study's quorum does not need it.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from consortium.core.errors import Refused
from consortium.core.names import is_hospital_name, is_run_id
from consortium.orchestration.quorum import declare_quorum

OUTCOME = "consortium_outcome"
"""Key of a job's record: `complete`, the `reason` if it is not, and whether it was `stopped`."""
ATTEMPT = "consortium_attempt"
"""Key of the record of a job that resumes a run: an `Attempt`."""
NEXT = "consortium_next"
"""Key of the record of an interrupted job: the job that resumes its run."""
FAILED_SITE = "consortium_failed_site"
"""Key of the record of an interrupted job: the hospital whose process or answer ended it."""
KEEPER_KEYS = (ATTEMPT, NEXT, OUTCOME, FAILED_SITE)
"""Keys of a job's record that only the orchestrator sets; a submitted one is dropped."""
LEAVE_OUT = 3
"""Number of jobs in a row that a hospital may break, each with fewer than `TRUST` closed rounds."""
TRUST = 5
"""Number of rounds after which a hospital is not blamed for breaking the job."""
PATIENCE = 5
"""Number of jobs in a row that may end without closing a round."""
SLOW = 30.0
"""Seconds after a job's start from which an orchestrator that has not opened the run is slow."""

RUNTIME_KEYS = (
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
    *KEEPER_KEYS,
)
"""Keys of a job's record that FLARE or the orchestrator adds."""
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


_ATTEMPT_KEYS = {member.name for member in fields(Attempt)}


def attempt_of(record: Mapping[str, Any]) -> Attempt | None:
    """Reads which attempt of a run a job is; None if the job is not of this package.

    Args:
        record: FLARE's record of the job, or its `meta.json` with its `job_id`.

    Raises:
        Refused: `bad-record`, if the id of the run or the name of a hospital is none, or a value
            has another type than the orchestrator writes.
    """
    section = record.get("consortium")
    if section is None:
        return None
    if not isinstance(section, Mapping):
        raise _bad_record("consortium", "is not an object")
    hospitals = section.get("hospitals") or []
    if not isinstance(hospitals, list) or not all(map(is_hospital_name, hospitals)):
        raise _bad_record("consortium.hospitals", "holds what is no hospital's name")
    if not isinstance(section.get("quorum", {}), Mapping):
        raise _bad_record("consortium.quorum", "is not an object")
    if ATTEMPT in record:
        return _parse_attempt(record[ATTEMPT])
    run = section.get("run") or record.get("job_id")
    if not is_run_id(run):
        raise _bad_record("consortium.run", "is not the id of a run")
    return Attempt(str(run))


def _parse_attempt(raw: Any) -> Attempt:
    if not isinstance(raw, Mapping) or not {"run"} <= raw.keys() <= _ATTEMPT_KEYS:
        raise _bad_record(ATTEMPT, "has other keys than the orchestrator writes")
    left_out = raw.get("left_out", [])
    if not isinstance(left_out, list):
        raise _bad_record(ATTEMPT, "has no list of the hospitals that are left out")
    attempt = Attempt(**{**raw, "left_out": tuple(left_out)})
    counts = (attempt.number, attempt.rounds, attempt.stalled, attempt.times)
    if not all(type(count) is int and count >= 0 for count in counts):
        raise _bad_record(ATTEMPT, "holds a count that is none")
    names = left_out if attempt.failed_site == "" else [attempt.failed_site, *left_out]
    if not is_run_id(attempt.run) or not all(map(is_hospital_name, names)):
        raise _bad_record(ATTEMPT, "names a run or a hospital that cannot exist")
    return attempt


def _bad_record(key: str, problem: str) -> Refused:
    return Refused("bad-record", f"{key} {problem}", "meta.json", "export the job again")


def outcome_of(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the outcome in a job's record; empty if there is none."""
    outcome = record.get(OUTCOME)
    return outcome if isinstance(outcome, Mapping) else {}


def is_broken(record: Mapping[str, Any]) -> bool:
    """Whether a job was interrupted and no other job has resumed its run yet.

    Raises:
        Refused: see `attempt_of`.
    """
    status = str(record.get("status", ""))
    if not status.startswith("FINISHED") or status in _ENDS:
        return False
    if outcome_of(record).get("stopped") or record.get(NEXT):
        return False
    attempt = attempt_of(record)
    if attempt is None:
        return False
    # A job that never ran was wrong from the start, unless its run had begun.
    return status != _FAILED_TO_RUN or attempt.number > 1


def is_to_blame(*, opened: bool, seconds: float) -> bool:
    """Whether a hospital whose process failed ended the job, and not a slow orchestrator.

    A hospital's process ends if the orchestrator's job does not answer it in time.

    Args:
        opened: whether the orchestrator's job had opened its run.
        seconds: since the job's start.
    """
    return opened or seconds < SLOW


def follow(record: Mapping[str, Any], rounds: int) -> dict[str, Any] | None:
    """Returns the record of the job that resumes an interrupted one; None to give the run up.

    Args:
        record: record of the interrupted job.
        rounds: number of rounds in the run's last checkpoint.
    """
    attempt = attempt_of(record)
    assert attempt is not None
    following = {key: value for key, value in record.items() if key not in RUNTIME_KEYS}
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
    outcome = outcome_of(record)
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
