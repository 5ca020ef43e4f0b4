"""The jobs that a hospital has admitted: the digest of each, and the run that it belongs to.

Small files in the hospital's own folder, one for each digest, job and run. Invariants: a digest
belongs to one run for ever, a job's id to one digest, and a run to the person who began it; what
cannot be read is refused.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from consortium.core.errors import ConsortiumError, Refused
from consortium.core.files import write_json
from consortium.core.json_files import read_json_object

QUIET = timedelta(days=7)
"""Time after its last job after which a run has ended, if its date has passed."""


@dataclass(frozen=True, slots=True)
class Admission:
    """A job that asks to be admitted.

    Attributes:
        digest: of the job's content.
        run: id of the run that it begins or continues.
        job_id: FLARE's id of it.
        by: name of the person who signed it.
        begins: whether that person signed a new run.
        until: date until which the job may first be started.
    """

    digest: str
    run: str
    job_id: str
    by: str
    begins: bool
    until: datetime


class JobLedger:
    """Decides whether a job is new, goes on with an admitted run, or is a replay.

    Args:
        folder: of the ledger; made when it is first needed.
    """

    def __init__(self, folder: Path):
        self._digests, self._jobs, self._runs = (folder / n for n in ("digests", "jobs", "runs"))

    def admit(self, job: Admission, now: datetime) -> None:
        """Admits a job and notes it.

        Args:
            job: that asks.
            now: the hospital's own time.

        Raises:
            Refused: `already-run`, for a digest of another run, a job's id of another digest, or a
                new run with the id of another; `not-your-run`, for a run that somebody else began;
                `job-expired`; `bad-ledger`.
        """
        digest, known = self._read(self._digests, job.digest), self._read(self._jobs, job.job_id)
        run = self._read(self._runs, job.run)
        if (digest and digest.get("run") != job.run) or (
            known and known.get("digest") != job.digest
        ):
            raise _already_run(job.job_id)
        if run and run.get("by") != job.by:
            raise Refused(
                "not-your-run", "somebody else began this run", job.run, "begin one of your own"
            )
        if run and job.begins and run.get("first") != job.digest:
            raise _already_run(job.job_id)
        if now > job.until and not _goes_on(digest, now):
            raise Refused(
                "job-expired",
                f"the job could be started until {job.until:%Y-%m-%d %H:%M} UTC",
                "the job",
                "export it again, with --until DATE if 30 days are too few",
            )
        if run is None:
            write_json(self._runs / f"{job.run}.json", {"by": job.by, "first": job.digest})
        self._note(job.digest, job.run, now)
        write_json(self._jobs / f"{job.job_id}.json", {"digest": job.digest})

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
            self._note(str(job["digest"]), str(known["run"]), now)

    def _note(self, digest: str, run: str, now: datetime) -> None:
        seen = now.isoformat(timespec="seconds")
        write_json(self._digests / f"{digest}.json", {"run": run, "seen": seen})

    def _read(self, folder: Path, name: str) -> dict[str, Any] | None:
        path = folder / f"{name}.json"
        try:
            return read_json_object(path) if path.exists() else None
        except (ConsortiumError, OSError):
            raise _bad_ledger(path.name) from None


def _goes_on(digest: dict[str, Any] | None, now: datetime) -> bool:
    """Returns whether a run that was admitted has been active of late."""
    if digest is None:
        return False
    try:
        return now - datetime.fromisoformat(str(digest["seen"])) <= QUIET
    except (KeyError, TypeError, ValueError):
        raise _bad_ledger("digests") from None


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
