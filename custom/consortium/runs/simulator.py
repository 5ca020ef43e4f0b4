"""Runs a job over a folder of hospitals on one machine, in FLARE's simulator.

The workspace belongs to one run. Invariants: no run writes into a workspace that another one uses;
a run that was killed resumes from its last closed round.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from consortium.client.fork_server import fork_server
from consortium.core.errors import EnvironmentProblem, Incomplete
from consortium.core.json_files import read_json_object
from consortium.core.plurals import plural
from consortium.flare.job import TROUBLE
from consortium.flare.simulator import start_simulator
from consortium.runs.base import (
    POLL,
    ResumableRun,
    View,
    Watch,
    hold_workspace,
    read_view,
)
from consortium.runs.process_guard import guarded
from consortium.settings.base import Settings
from consortium.tasks.folders import hospital_folders

_END_TIMEOUT = 5.0  # seconds that the processes of a killed run may take to end
GRACE = 20.0
"""Seconds that a hospital's process may be gone before the run is ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation(ResumableRun):
    """A run in the simulator.

    Attributes:
        environment: variables for FLARE's processes.
    """

    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    def run(self, watch: Watch = lambda view: None) -> dict[str, Any]:
        """Runs the job to its end.

        Args:
            watch: receives the progress from time to time.

        Returns:
            The content of `result.json`.

        Raises:
            UsageError: a folder, a hospital or a setting is wrong; nothing was started.
            Refused: the workspace is in use, or there is nothing to resume.
            Incomplete: a hospital's process died; the run can be resumed after its closed rounds.
            EnvironmentProblem: FLARE ended without a result.
        """
        workspace = self.workspace.resolve()
        folders = hospital_folders(self.data.resolve())
        settings = self.prepare()
        with (
            hold_workspace(workspace, _END_TIMEOUT) as lock,
            guarded(self.environment) as marked,
            fork_server(marked) as environment,
        ):
            for name in ("result.json", TROUBLE, "hospitals/*/*/progress.json"):
                for stale in workspace.glob(name):
                    stale.unlink()
            process = start_simulator(
                workspace / "job" / self.job.name,
                hospitals=list(folders),
                data=self.data.resolve(),
                workspace=workspace,
                smallest_group=self.smallest_group,
                share_models=settings.cross_site,
                privacy=self.privacy,
                environment=environment,
                lock=lock,
            )
            watchdog = _Watchdog(workspace)
            try:
                while process.poll() is None:
                    view = _read_view(workspace, settings, list(folders))
                    watch(view)
                    watchdog.check(view)
                    time.sleep(POLL)
            finally:
                _end(process, _read_view(workspace, settings, list(folders)))
        watch(_read_view(workspace, settings, list(folders)))
        if not (workspace / "result.json").is_file():
            raise _no_result(workspace, process.returncode)
        return read_json_object(workspace / "result.json")


def _read_view(workspace: Path, settings: Settings, hospitals: Sequence[str]) -> View:
    states = {name: workspace / "hospitals" / name for name in hospitals}
    return read_view(settings, workspace / "rounds.jsonl", states)


class _Watchdog:
    """Notices a hospital whose process is gone, for which FLARE would wait without end."""

    def __init__(self, workspace: Path):
        self._workspace = workspace
        self._missed: dict[str, float] = {}

    def check(self, view: View) -> None:
        """Checks that every hospital's process runs.

        Raises:
            Incomplete: `hospital-died`, `GRACE` seconds after it did, because at the end of a run
                hospitals end before the orchestrator has written the result.
        """
        if (self._workspace / "result.json").is_file():
            return
        now = time.monotonic()
        for name, progress in view.hospitals.items():
            if _is_running(progress["process"]):
                self._missed.pop(name, None)
            elif now - self._missed.setdefault(name, now) > GRACE:
                raise Incomplete(
                    "hospital-died",
                    f"the process of {name} ended without a reason after"
                    f" {plural(len(view.records), 'closed round')}",
                    str(self._workspace),
                    "check whether memory ran out, then continue with --resume",
                )


def _is_running(process: int) -> bool:
    try:
        # A process that has ended but was not waited for has no command line any more.
        return bool(Path(f"/proc/{process}/cmdline").read_bytes())
    except OSError:
        return not Path("/proc/self").exists()


def _no_result(workspace: Path, exit_code: int) -> EnvironmentProblem:
    message = f"FLARE ended without a result (exit code {exit_code})"
    with contextlib.suppress(OSError):
        message = (workspace / TROUBLE).read_text(encoding="utf-8").strip() or message
    log = str(workspace / "federation.log")
    return EnvironmentProblem("no-result", message, log, "see the end of this log")


def _end(process: subprocess.Popen[bytes], view: View) -> None:
    """Ends FLARE's processes and the hospitals', which lead process groups of their own."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for progress in view.hospitals.values():
            if _is_running(progress["process"]):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(progress["process"], signal.SIGKILL)
