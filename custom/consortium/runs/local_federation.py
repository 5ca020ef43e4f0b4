"""A job over a folder of hospitals on one machine, in a real federation of signed kits.

The way of a study, in one call: kits are provisioned, every participant starts its own, a
researcher submits the job, and the results come back by FLARE's download. The workspace belongs to
one run: `federation/` is the federation (see `consortium.runs.federation`), `job/` what was
submitted, and the rest what came back. No process is left behind, however it ends.
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
from consortium.runs.base import POLL, LocalRun, View, Watch, look, prepare_run
from consortium.runs.status import GOING_ON, describe
from consortium.settings.base import Settings
from consortium.tasks.folders import hospital_folders

_ASK = 1.0  # seconds between two questions to the orchestrator


@dataclass(frozen=True, slots=True, kw_only=True)
class FederatedRun(LocalRun):
    """A run in a federation of its own; its workspace is new or empty."""

    def run(self, watch: Watch = lambda view: None) -> dict[str, Any]:
        """Runs the job to its end.

        Args:
            watch: is shown the state from time to time.

        Returns:
            The content of `result.json`.

        Raises:
            UsageError: a folder, a hospital or a setting is wrong; nothing was started.
            Refused: the workspace is in use, or the orchestrator does not take the job.
            EnvironmentProblem: the federation does not come up, or ended without a result.
        """
        workspace = self.workspace.resolve()
        settings = prepare_run(self)
        place = workspace / "federation"
        own = {"smallest_group": self.smallest_group, "share_local_model": settings.cross_site}
        try:
            federation.up(place, data=self.data, own=own)
            with open_session(federation.admin_kit(place, federation.RESEARCHER)) as session:
                job_id = session.submit(workspace / "job" / self.job.name)
                job_id = self._follow(session, job_id, place, settings, watch)
                _fetch(session, job_id, workspace)
                reasons = describe(session.job(job_id)).reasons
        finally:
            federation.down(place)
        watch(self._look(workspace, place, settings))
        if not (workspace / "result.json").is_file():
            log = str(place / "machines" / f"{federation.ORCHESTRATOR}.log")
            raise EnvironmentProblem("no-result", "; ".join(reasons), log, "see this log")
        return read_json_object(workspace / "result.json")

    def _follow(
        self,
        session: Session,
        job_id: str,
        place: Path,
        settings: Settings,
        watch: Watch,
    ) -> str:
        """Shows how far it is until FLARE says that it has ended; returns its last job."""
        asked, seen = 0.0, View(settings, [], {})
        while True:
            folder = place / "machines" / federation.ORCHESTRATOR / job_id / "consortium"
            view = self._look(folder, place, settings)
            # At its end FLARE puts the job's folder away before it says so.
            seen = view if len(view.records) >= len(seen.records) else seen
            watch(seen)
            if time.monotonic() - asked > _ASK:
                asked = time.monotonic()
                record = session.job(job_id)
                job_id = str(record.get(NEXT, job_id))
                if describe(record).state not in GOING_ON:
                    return job_id
            time.sleep(POLL)

    def _look(self, results: Path, place: Path, settings: Settings) -> View:
        names = hospital_folders(self.data)
        states = {name: place / "machines" / name / "consortium" for name in names}
        return look(settings, results / "rounds.jsonl", states)


def _fetch(session: Session, job_id: str, workspace: Path) -> None:
    """Brings what the run left into its workspace."""
    with tempfile.TemporaryDirectory(dir=workspace) as temporary:
        left = session.download(job_id, Path(temporary)) / "workspace" / "consortium"
        if left.is_dir():
            for path in left.iterdir():
                shutil.move(path, workspace / path.name)
