"""Describes FLARE's record of a job for people: what runs, what waits, and why.

FLARE writes its reasons where nobody looks: `schedule_history` for a job that waits,
`job_deploy_detail` for a hospital that refused it, and nothing for a run that broke off. Our own
orchestrator adds the reason of the last (`OUTCOME`).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from consortium.core.errors import ConsortiumError
from consortium.core.plurals import plural
from consortium.orchestration.recovery import (
    FAILED_SITE,
    LEAVE_OUT,
    NEXT,
    attempt_of,
    is_broken,
    outcome_of,
)
from consortium.study.refusals import describe_refusal

_ABSENT = re.compile(r"missing required site (\S+)")
_SCARCE = re.compile(r"enough resources \(ok sites (\d+) < min sites (\d+)\)")
_FLARES_PREFIX = re.compile(r"^(NVFLARE_ERROR: |ERROR: )*")
_STATES = {
    "SUBMITTED": "waiting",
    "APPROVED": "waiting",
    "DISPATCHED": "starting",
    "RUNNING": "running",
    "FINISHED:COMPLETED": "finished",
    "FINISHED:ABORTED": "aborted",
    "FAILED_TO_RUN": "failed",
    "ABANDONED": "failed",
}

_PLAIN = ("job_id", "name", "job_name", "status", "submitter_name", "submit_time_iso", "duration")
"""Keys of a record that hold texts, which FLARE writes, except the names."""
GOING_ON = ("waiting", "starting", "running", "interrupted", "continued")
"""States of a run that has not ended."""


@dataclass(frozen=True, slots=True)
class Run:
    """A job on the orchestrator.

    Attributes:
        job: FLARE's id of it.
        name: the job's.
        state: `waiting`, `starting`, `running`, `finished`, `incomplete`, `aborted` or `failed`;
            `interrupted` if another job will continue the run, and `continued` if one does.
        submitter: the admin's name.
        submitted: date and time, UTC.
        duration: as reported by FLARE, "" before it starts.
        hospitals: that the study declares.
        reasons: why it is in that state, in words; empty if the state needs no reason.
    """

    job: str
    name: str
    state: str
    submitter: str
    submitted: str
    duration: str
    hospitals: Sequence[str]
    reasons: Sequence[str]


def describe(record: Mapping[str, Any], others: Sequence[Mapping[str, Any]] = ()) -> Run:
    """Describes FLARE's record of a job; one that cannot be read is described as far as it can be.

    Args:
        record: of the job.
        others: records of all jobs; a waiting job may wait for one of them.
    """
    try:
        return _describe(record, others)
    except (ConsortiumError, AttributeError, KeyError, TypeError, ValueError) as error:
        code = error.code if isinstance(error, ConsortiumError) else "bad-record"
        kept = {key: str(record.get(key) or "") for key in _PLAIN}
        reason = f"{code}: the record of the job cannot be read; export the job again"
        return replace(_describe(kept, ()), reasons=[reason])


def _describe(record: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> Run:
    outcome = outcome_of(record)
    status = str(record.get("status", ""))
    state = _STATES.get(status, "failed" if status.startswith("FINISHED") else status.lower())
    if state == "finished" and outcome.get("complete") is False:
        state = "incomplete"
    elif state == "failed" and (record.get(NEXT) or is_broken(record)):
        state = "continued" if record.get(NEXT) else "interrupted"
    duration = str(record.get("duration") or "")
    return Run(
        job=str(record["job_id"]),
        name=str(record.get("name") or record.get("job_name") or ""),
        state=state,
        submitter=str(record.get("submitter_name") or ""),
        submitted=str(record.get("submit_time_iso") or "")[:16].replace("T", " "),
        duration="" if duration == "N/A" else duration.partition(".")[0],
        hospitals=[str(name) for name in (record.get("consortium") or {}).get("hospitals", [])],
        reasons=[
            *_reasons(record, state, outcome),
            *(_jobs_before(others) if state == "waiting" else ()),
        ],
    )


def _reasons(record: Mapping[str, Any], state: str, outcome: Mapping[str, Any]) -> list[str]:
    reasons = [
        f"{site} refused the job: {describe_refusal(_FLARES_PREFIX.sub('', message))}"
        for site, colon, message in (
            str(line).partition(": ") for line in record.get("job_deploy_detail") or []
        )
        if colon and message != "OK"
    ]
    if state == "waiting":
        reasons += _waiting(record)
    if outcome.get("reason"):
        reasons.append(str(outcome["reason"]))
    attempt = attempt_of(record)
    if record.get(FAILED_SITE):
        site = record[FAILED_SITE]
        reasons.append(f"{site} ended it: a process there failed, or an answer could not be read")
    if attempt is not None and attempt.left_out:
        reasons.append(
            f"the run continues without {', '.join(attempt.left_out)}, which broke {LEAVE_OUT}"
            " jobs in a row"
        )
    if state == "continued":
        reasons.append(f"the run continues as {record[NEXT]}")
    elif state == "interrupted":
        reasons.append("the run continues as soon as its hospitals are connected")
    elif state == "failed" and not reasons:
        reasons.append(f"FLARE ended it as {record.get('status')} without a reason")
    return reasons


def _waiting(record: Mapping[str, Any]) -> list[str]:
    history = [str(line) for line in record.get("schedule_history") or []]
    if not history:
        return ["it was just submitted, or the jobs before it are still running"]
    # "2026-11-25 09:37:52: missing required site fen"
    when, _, reason = history[-1].partition(": ")
    absent = _ABSENT.fullmatch(reason)
    scarce = _SCARCE.search(reason)
    if absent:
        reason = f"hospital {absent[1]} is not connected"
    elif scarce:
        have = plural(int(scarce[1]), "hospital has", "hospitals have")
        reason = f"{have} the resources it asks for, and it needs {scarce[2]}"
    reasons = [f"{reason} (tried {plural(len(history), 'time')}, last at {when} UTC)"]
    if scarce:
        reasons += [
            f"it asks {site} for {_describe_resources(spec)}"
            for site, spec in (record.get("resource_spec") or {}).items()
            if spec
        ]
    return reasons


def _jobs_before(others: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for other in others:
        run = describe(other)
        if run.state in ("starting", "running"):
            yield f"{run.job[:8]} of {run.submitter} is {run.state}"


def _describe_resources(spec: Mapping[str, Any]) -> str:
    gpus, memory = spec.get("num_of_gpus"), spec.get("mem_per_gpu_in_GiB")
    if gpus is None:
        return ", ".join(f"{key} {value}" for key, value in spec.items())
    text = plural(gpus, "GPU") + (f" of {memory} GiB" if memory else "")
    return f"{text}, or for its CPU if it has none" if spec.get("cpu_instead") else text
