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


class Session:
    """What an admin may ask of the orchestrator; opened by `open_session`."""

    def __init__(self, flare: FlareSession, admin: str):
        self._flare, self._admin = flare, admin

    def hospitals(self) -> list[str]:
        """Names of the sites that are connected, sorted."""
        with self._told("check_status"):
            return sorted(client.name for client in self._flare.get_system_info().client_info)

    def submit(self, job: Path) -> str:
        """Submits a job's folder and returns FLARE's id of the job.

        A copy is submitted, because FLARE signs in place.

        Raises:
            Refused: `not-authorized`, `bad-job` or `refused`.
        """
        with tempfile.TemporaryDirectory() as place, self._told("submit_job"):
            copy = Path(place) / job.name
            shutil.copytree(job, copy)
            return str(self._flare.submit_job(str(copy)))

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs, newest first; each with `job_id`, `job_name`, `status` and more of FLARE's."""
        with self._told("list_jobs"):
            listed = [dict(job) for job in self._flare.list_jobs(detailed=True)]
        return sorted(listed, key=lambda job: str(job.get("submit_time", "")), reverse=True)

    def job(self, job_id: str) -> dict[str, Any]:
        """FLARE's record of a job, with what it keeps of its deployment and scheduling.

        Raises:
            UsageError: `unknown-run`.
        """
        with self._told("get_job_meta"):
            return dict(self._flare.get_job_meta(job_id))

    def find(self, beginning: str) -> str:
        """The id of the one job whose id begins so.

        Raises:
            UsageError: `unknown-run` or `several-runs`.
        """
        found = [str(job["job_id"]) for job in self.jobs() if job["job_id"].startswith(beginning)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(
                "several-runs", f"{len(found)} runs begin so", beginning, "give more of the id"
            )
        raise UsageError("unknown-run", "there is no such run", beginning, "see consortium runs")

    def abort(self, job_id: str) -> None:
        """Ends a job, or takes it out of the queue."""
        with self._told("abort_job"):
            self._flare.abort_job(job_id)

    def download(self, job_id: str, into: Path) -> Path:
        """Fetches what a finished job left and returns its folder."""
        with self._told("download_job"):
            return Path(self._flare.download_job_result(job_id, str(into)))

    def shutdown(self) -> None:
        """Ends all sites and the orchestrator, without waiting for it."""
        with self._told("shutdown"):
            self._flare.shutdown("all", wait=False)

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Turns FLARE's errors into sentences, and keeps what it prints from the terminal."""
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                yield
            except ConsortiumError:
                raise
            except AuthorizationError:
                raise Refused(
                    "not-authorized",
                    f"{self._admin} has no right to {what}",
                    "",
                    "ask somebody whose role has it",
                ) from None
            except JobNotFound:
                raise UsageError(
                    "unknown-run", "there is no such job", what, "see consortium runs"
                ) from None
            except InvalidJobDefinition as error:
                raise Refused("bad-job", str(error), what, "correct the job's folder") from None
            except NoConnection as error:
                raise _unreachable(str(error)) from None
            except Exception as error:
                raise Refused("refused", str(error), what, "see the orchestrator's log") from error


@contextlib.contextmanager
def open_session(kit: Path, timeout: float = 10.0) -> Iterator[Session]:
    """Logs in with an admin's kit.

    Args:
        kit: the kit's folder.
        timeout: seconds to try for.

    Raises:
        UsageError: `no-admin-kit`.
        EnvironmentProblem: `no-connection`.
        Refused: `not-authenticated`.
    """
    file = kit / "startup" / "fed_admin.json"
    if not file.is_file():
        raise UsageError("no-admin-kit", "no admin's kit", str(kit), "give the kit of an admin")
    admin = str(read_json_object(file)["admin"]["username"])
    try:
        # FLARE tells on the terminal that it connects.
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
            flare.close()  # or FLARE's threads keep this process from ending


def _unreachable(told: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        "no-connection", f"the orchestrator does not answer ({told})", "", "is it running?"
    )
