"""Runs a job over a folder of hospitals on one machine, in a real federation of signed kits.

One call takes all steps of a study: it provisions and starts the kits, submits the job as a
researcher, and fetches the results by FLARE's download. The workspace belongs to one run:
`federation/` is the federation (see `consortium.runs.federation`), `job/` the submitted job, and
the rest the results. No process is left behind, however the run ends.
"""

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consortium.core.errors import EnvironmentProblem
from consortium.core.json_files import read_json_object
from consortium.flare.session import Session, open_session
from consortium.orchestration.recovery import NEXT
from consortium.runs import federation
from consortium.runs.base import POLL, LocalRun, View, Watch, prepare_run, read_view
from consortium.runs.status import GOING_ON, describe
from consortium.settings.base import Settings
from consortium.tasks.folders import hospital_folders

_INTERVAL = 1.0  # seconds between two requests to the orchestrator


@dataclass(frozen=True, slots=True, kw_only=True)
class FederatedRun(LocalRun):
    """A run in a federation of its own; its workspace is new or empty."""

    def run(self, watch: Watch = lambda view: None) -> dict[str, Any]:
        """Runs the job to its end.

        Args:
            watch: receives the progress from time to time.

        Returns:
            The content of `result.json`.

        Raises:
            UsageError: a folder, a hospital or a setting is wrong; nothing was started.
            Refused: the workspace is in use, or the orchestrator refuses the job.
            EnvironmentProblem: the federation does not start, or ended without a result.
        """
        workspace = self.workspace.resolve()
        settings = prepare_run(self)
        folder = workspace / "federation"
        own = {
            "smallest_group": self.smallest_group,
            "share_local_model": settings.cross_site,
            "privacy": self.privacy.model_dump(),
        }
        start = settings.model.from_
        models = Path(start).parent if start is not None else None
        try:
            federation.up(folder, data=self.data, own=own, models=models)
            with open_session(federation.admin_kit(folder, federation.RESEARCHER)) as session:
                job_id = session.submit(workspace / "job" / self.job.name)
                job_id = self._follow(session, job_id, folder, settings, watch)
                _fetch(session, job_id, workspace)
                reasons = describe(session.job(job_id)).reasons
        finally:
            federation.down(folder)
        watch(self._read_view(workspace, folder, settings))
        if not (workspace / "result.json").is_file():
            log = str(folder / "machines" / f"{federation.ORCHESTRATOR}.log")
            raise EnvironmentProblem("no-result", "; ".join(reasons), log, "see this log")
        return read_json_object(workspace / "result.json")

    def _follow(
        self,
        session: Session,
        job_id: str,
        folder: Path,
        settings: Settings,
        watch: Watch,
    ) -> str:
        """Reports the progress until FLARE has ended the run; returns the id of its last job."""
        asked, latest = 0.0, View(settings, [], {})
        while True:
            results = folder / "machines" / federation.ORCHESTRATOR / job_id / "consortium"
            view = self._read_view(results, folder, settings)
            # FLARE removes the folder of an ended job before it reports the end.
            latest = view if len(view.records) >= len(latest.records) else latest
            watch(latest)
            if time.monotonic() - asked > _INTERVAL:
                asked = time.monotonic()
                record = session.job(job_id)
                job_id = str(record.get(NEXT, job_id))
                if describe(record).state not in GOING_ON:
                    return job_id
            time.sleep(POLL)

    def _read_view(self, results: Path, folder: Path, settings: Settings) -> View:
        names = hospital_folders(self.data)
        states = {name: folder / "machines" / name / "consortium" for name in names}
        return read_view(settings, results / "rounds.jsonl", states)


def _fetch(session: Session, job_id: str, workspace: Path) -> None:
    """Moves the run's results into its workspace."""
    with tempfile.TemporaryDirectory(dir=workspace) as temporary:
        results = session.download(job_id, Path(temporary)) / "workspace" / "consortium"
        if results.is_dir():
            for path in results.iterdir():
                shutil.move(path, workspace / path.name)
