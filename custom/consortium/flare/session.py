"""An admin's session with a running orchestrator, by FLARE's API."""

import contextlib
import io
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nvflare.fuel.flare_api.api_spec import (
    AuthenticationError,
    AuthorizationError,
    InvalidJobDefinition,
    JobNotFound,
    NoConnection,
)
from nvflare.fuel.flare_api.flare_api import Session as FlareSession
from nvflare.fuel.flare_api.flare_api import new_secure_session

from consortium.core.errors import ConsortiumError, EnvironmentProblem, Refused, UsageError
from consortium.core.json_files import read_json_object
from consortium.study.job_folder import STUDY


class Session:
    """An admin's requests to the orchestrator; opened by `open_session`."""

    def __init__(self, flare: FlareSession, admin: str):
        self._flare, self._admin = flare, admin

    def hospitals(self) -> list[str]:
        """Returns the names of the connected hospitals, sorted."""
        with self._translate_errors("check_status"):
            return sorted(client.name for client in self._flare.get_system_info().client_info)

    def submit(self, job: Path) -> str:
        """Submits a copy of a job's folder and returns FLARE's id of the job.

        FLARE signs the folder in place, so the original is not submitted.

        Raises:
            Refused: `not-exported`, `not-authorized`, `bad-job` or `refused`.
            UsageError: the job has no `meta.json`.
        """
        ours = "consortium" in read_json_object(job / "meta.json")
        if ours and not (job / STUDY).is_file():
            raise Refused(
                "not-exported",
                "this is a job's source, not a job to submit",
                str(job),
                "write the job with scripts/export-job and submit that folder",
            )
        with tempfile.TemporaryDirectory() as folder, self._translate_errors("submit_job"):
            copy = Path(folder) / job.name
            shutil.copytree(job, copy)
            return str(self._flare.submit_job(str(copy)))

    def jobs(self) -> list[dict[str, Any]]:
        """Returns FLARE's records of all jobs, newest first: `job_id`, `job_name`, `status` etc."""
        with self._translate_errors("list_jobs"):
            listed = [dict(job) for job in self._flare.list_jobs(detailed=True)]
        return sorted(listed, key=lambda job: str(job.get("submit_time", "")), reverse=True)

    def job(self, job_id: str) -> dict[str, Any]:
        """Returns FLARE's record of a job, including its deployment and scheduling.

        Raises:
            UsageError: `unknown-run`.
        """
        with self._translate_errors("get_job_meta"):
            return dict(self._flare.get_job_meta(job_id))

    def find(self, prefix: str) -> str:
        """Returns the id of the one job whose id begins with `prefix`.

        Raises:
            UsageError: `unknown-run` or `several-runs`.
        """
        matches = [str(job["job_id"]) for job in self.jobs() if job["job_id"].startswith(prefix)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise UsageError(
                "several-runs",
                f"{len(matches)} runs have ids that begin like this",
                prefix,
                "give more of the id",
            )
        raise UsageError("unknown-run", "there is no such run", prefix, "see consortium runs")

    def abort(self, job_id: str) -> None:
        """Ends a job, or removes it from the queue."""
        with self._translate_errors("abort_job"):
            self._flare.abort_job(job_id)

    def download(self, job_id: str, into: Path) -> Path:
        """Downloads the results of a finished job and returns their folder."""
        with self._translate_errors("download_job"):
            return Path(self._flare.download_job_result(job_id, str(into)))

    def shutdown(self) -> None:
        """Ends all hospitals and the orchestrator, without waiting."""
        with self._translate_errors("shutdown"):
            self._flare.shutdown("all", wait=False)

    @contextlib.contextmanager
    def _translate_errors(self, command: str) -> Iterator[None]:
        """Translates FLARE's errors into ours, and keeps its output from the terminal."""
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                yield
            except ConsortiumError:
                raise
            except AuthorizationError:
                raise Refused(
                    "not-authorized",
                    f"{self._admin} has no right to {command}",
                    "",
                    "ask somebody whose role has it",
                ) from None
            except JobNotFound:
                raise UsageError(
                    "unknown-run", "there is no such job", command, "see consortium runs"
                ) from None
            except InvalidJobDefinition as error:
                raise Refused("bad-job", str(error), command, "correct the job's folder") from None
            except NoConnection as error:
                raise _unreachable(str(error)) from None
            except Exception as error:
                raise Refused(
                    "refused", str(error), command, "see the orchestrator's log"
                ) from error


@contextlib.contextmanager
def open_session(kit: Path, timeout: float = 10.0) -> Iterator[Session]:
    """Logs in with an admin's kit.

    Args:
        kit: the kit's folder.
        timeout: seconds to try.

    Raises:
        UsageError: `no-admin-kit`.
        EnvironmentProblem: `no-connection`.
        Refused: `not-authenticated`.
    """
    file = kit / "startup" / "fed_admin.json"
    if not file.is_file():
        raise UsageError(
            "no-admin-kit", "this is not an admin's kit", str(kit), "give the kit of an admin"
        )
    admin = str(read_json_object(file)["admin"]["username"])
    try:
        # FLARE prints to the terminal that it connects.
        with contextlib.redirect_stdout(io.StringIO()):
            flare = new_secure_session(admin, str(kit.resolve()), timeout=timeout)
    except NoConnection as error:
        raise _unreachable(str(error)) from None
    except AuthenticationError as error:
        raise Refused("not-authenticated", str(error), admin, "ask the coordinator") from None
    try:
        yield Session(flare, admin)
    finally:
        with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
            flare.close()  # otherwise FLARE's threads keep this process from ending


def _unreachable(message: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        "no-connection",
        f"the orchestrator does not answer ({message})",
        "",
        "check that it is running",
    )
