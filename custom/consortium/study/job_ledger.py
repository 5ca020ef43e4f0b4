"""The jobs that a hospital has admitted: the digest of each, and the run that it belongs to.

One small file a digest and one a job, in the hospital's own folder. Invariants: a digest belongs to
one run for ever, and a job's id to one digest; what cannot be read is refused.
"""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from consortium.core.errors import ConsortiumError, Refused
from consortium.core.files import write_json
from consortium.core.json_files import read_json_object

QUIET = timedelta(days=7)
"""Time after its last job after which a run has ended, if its date has passed."""


class JobLedger:
    """Decides whether a job is new, goes on with an admitted run, or is a replay.

    Args:
        folder: of the ledger; made when it is first needed.
    """

    def __init__(self, folder: Path):
        self._digests, self._jobs = folder / "digests", folder / "jobs"

    def admit(self, digest: str, *, run: str, job_id: str, until: datetime, now: datetime) -> None:
        """Admits a job and notes it.

        Args:
            digest: of the job's content.
            run: id of the run that it begins or continues.
            job_id: FLARE's id of it.
            until: date until which the job may first be started.
            now: the hospital's own time.

        Raises:
            Refused: `already-run`, for a digest of another run or a job's id of another digest;
                `job-expired`; `bad-ledger`.
        """
        self._check(digest, run, job_id, until, now)
        seen = now.isoformat(timespec="seconds")
        write_json(self._digests / f"{digest}.json", {"run": run, "seen": seen})
        write_json(self._jobs / f"{job_id}.json", {"digest": digest})

    def require(self, digest: str, *, run: str, job_id: str) -> None:
        """Checks that a job was admitted as it is now.

        Raises:
            Refused: `not-admitted`, `already-run` or `bad-ledger`.
        """
        known, job = self._read(self._digests, digest), self._read(self._jobs, job_id)
        if known is None or job is None:
            raise Refused("not-admitted", "the job was not deployed", job_id, "submit it again")
        if known.get("run") != run or job.get("digest") != digest:
            raise _already_run(job_id)

    def note_end(self, job_id: str, now: datetime) -> None:
        """Notes that a job has ended, so that the run may go on for `QUIET` from now."""
        job = self._read(self._jobs, job_id)
        known = self._read(self._digests, str(job.get("digest"))) if job else None
        if job and known:
            seen = now.isoformat(timespec="seconds")
            write_json(self._digests / f"{job['digest']}.json", {**known, "seen": seen})

    def _check(self, digest: str, run: str, job_id: str, until: datetime, now: datetime) -> None:
        known, job = self._read(self._digests, digest), self._read(self._jobs, job_id)
        if (known and known.get("run") != run) or (job and job.get("digest") != digest):
            raise _already_run(job_id)
        if now <= until:
            return
        try:
            seen = datetime.fromisoformat(str(known["seen"])) if known else None
            goes_on = seen is not None and now - seen <= QUIET
        except (KeyError, TypeError, ValueError):
            raise _bad_ledger(digest) from None
        if not goes_on:
            raise Refused(
                "job-expired",
                f"the job could be started until {until:%Y-%m-%d %H:%M} UTC",
                "the job",
                "export it again, with --until DATE if 30 days are too few",
            )

    def _read(self, folder: Path, name: str) -> dict[str, Any] | None:
        path = folder / f"{name}.json"
        try:
            return read_json_object(path) if path.exists() else None
        except (ConsortiumError, OSError):
            raise _bad_ledger(path.name) from None


def _already_run(job_id: str) -> Refused:
    return Refused(
        "already-run",
        "this job has begun another run, or this id belongs to another job",
        job_id,
        "export the job again: each exported job is one run",
    )


def _bad_ledger(name: str) -> Refused:
    return Refused(
        "bad-ledger", "the record of admitted jobs is damaged", name, "restore it from a backup"
    )
