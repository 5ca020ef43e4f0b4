"""Checks the record of a submitted job before the orchestrator stores it.

FLARE stores the job's own `meta.json`, and lists, schedules and continues jobs by it. A value of
another type would raise there, for every job and every admin.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nvflare.apis.job_def import is_valid_job_id, new_job_id

from consortium.core.errors import ConsortiumError, Refused
from consortium.flare.job import run_folder
from consortium.orchestration.owners import claim_run, submitter_of
from consortium.orchestration.recovery import RUNTIME_KEYS, attempt_of

_SET_LATER = {
    *RUNTIME_KEYS,
    "approvals",
    "cloned_from",
    "content_location",
    "data_storage_format",
    "job_clients",
    "result_location",
}
"""Keys that FLARE or the run keeper sets after the submission."""


def clean_record(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a submitted record without the keys that only the orchestrator sets.

    The job's id becomes a new one if it is none, because it names the job's folder in every kit.

    Args:
        meta: the job's `meta.json`, with what FLARE has added to it.
    """
    job_id = meta.get("job_id")
    cleaned = {key: value for key, value in meta.items() if key not in _SET_LATER}
    return {**cleaned, "job_id": job_id if is_valid_job_id(job_id) else new_job_id()}


def check_record(meta: Mapping[str, Any], root: Path) -> None:
    """Checks a cleaned record, and makes its run the submitter's.

    Args:
        meta: from `clean_record`.
        root: the orchestrator's workspace.

    Raises:
        Refused: `bad-record`, or `other-submitter` if the run belongs to somebody else.
    """
    for key, kind, is_needed in (
        ("name", str, False),
        ("min_clients", int, False),
        ("mandatory_clients", list, False),
        ("deploy_map", dict, True),
    ):
        if not isinstance(meta.get(key), kind) and (is_needed or meta.get(key) is not None):
            raise Refused("bad-record", f"{key} is of another type", "meta.json", "correct it")
    attempt = attempt_of(meta)
    if attempt is not None:
        claim_run(run_folder(root, attempt.run), submitter_of(meta))


def readable_part(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a refused record without the values that nobody can read."""
    kept = dict(meta)
    if not isinstance(kept.get("name"), str):
        kept.pop("name", None)
    try:
        attempt_of(kept)
    except ConsortiumError:
        del kept["consortium"]
    return kept
