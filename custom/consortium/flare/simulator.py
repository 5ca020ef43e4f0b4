"""Starts FLARE's simulator in its own process, and every hospital in another one."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from consortium.core.files import write_json
from consortium.core.site_policy import ALL_COLUMNS, Privacy
from consortium.flare import job as flare_job
from consortium.flare.client import site
from consortium.kits.site_defaults import HOSPITAL_CLASSES, ORCHESTRATOR_CLASSES


def start_simulator(
    job: Path,
    *,
    hospitals: Sequence[str],
    data: Path,
    workspace: Path,
    smallest_group: int,
    share_models: bool,
    environment: Mapping[str, str],
    lock: int | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a job in the simulator.

    Args:
        job: the prepared job.
        hospitals: their names.
        data: holds one folder per hospital.
        workspace: of the run. FLARE's own files go to `federation/` (wiped at the start), its
            output to `federation.log`, results to the workspace, hospitals' state to `hospitals/`.
        smallest_group: see `consortium.core.site_policy.Site`.
        share_models: whether hospitals let others score their models.
        environment: of the process.
        lock: a file descriptor that it inherits.

    Returns:
        The running process, which leads its own process group.
    """
    own = {
        site.DATA: str(data / "{site}"),
        site.STATE: str(workspace / "hospitals" / "{site}"),
        site.SMALLEST_GROUP: str(smallest_group),
        site.PRIVACY: Privacy(columns=ALL_COLUMNS).model_dump_json(),
        site.SHARE_MODEL: "yes" if share_models else "no",
        flare_job.RUN_FOLDER: str(workspace),
    }
    threads = str(max(1, (os.cpu_count() or 1) // len(hospitals)))
    # Busy-waiting threads of several processes cost far more than they gain. Each of FLARE's
    # threads, of which a site has dozens, may have a heap of its own.
    quiet = {
        "OMP_NUM_THREADS": threads,
        "OMP_WAIT_POLICY": "PASSIVE",
        "MKL_NUM_THREADS": threads,
        "MALLOC_ARENA_MAX": "2",
    }
    # FLARE wipes its workspace except `local/`, which it uses for every site.
    write_json(
        workspace / "federation" / "local" / "resources.json",
        {"format_version": 2, "class_allow_list": HOSPITAL_CLASSES + ORCHESTRATOR_CLASSES},
    )
    with (workspace / "federation.log").open("ab") as log:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "nvflare.private.fed.app.simulator.simulator",
                str(job),
                "-w",
                str(workspace / "federation"),
                "-c",
                ",".join(hospitals),
                "-t",
                str(len(hospitals)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**quiet, **environment, **own},
            start_new_session=True,
            pass_fds=() if lock is None else (lock,),
        )
