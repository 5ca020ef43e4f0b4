"""Runs the jobs of the benchmark `round`: in FLARE's simulator or in two real federations."""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import psutil
from scripts.benchmarks.provisioning import without_ours
from scripts.benchmarks.round_jobs import Size

from consortium.core.errors import EnvironmentProblem
from consortium.core.files import write_json
from consortium.core.json_files import read_json_object
from consortium.core.site_policy import simulated_privacy
from consortium.flare.provisioner import provision
from consortium.flare.session import Session, open_session
from consortium.flare.simulator import start_simulator
from consortium.kits.rights import further_right
from consortium.kits.site_defaults import AUTHORIZATION
from consortium.runs import federation

_PATIENCE = 60  # seconds that an aborted job may take to end
_POLICY = "local/authorization.json"
_RESOURCES = "local/resources.json"


@dataclass(frozen=True, slots=True)
class Running:
    """A running job.

    Attributes:
        ended: returns whether it has ended by itself.
        log: the log of its orchestrator.
    """

    ended: Callable[[], bool]
    log: Path


Start = Callable[[Path, Path], AbstractContextManager[Running]]
"""Starts a job in a working folder; on exit ends its processes that are still running."""


@dataclass(frozen=True, slots=True)
class Places:
    """Start functions of both federations.

    Attributes:
        ours: with this package's kits and policies.
        stock: with FLARE's kits.
    """

    ours: Start
    stock: Start


@contextlib.contextmanager
def simulated(folder: Path, size: Size) -> Iterator[Places]:
    """Runs both in FLARE's simulator, each run in a new one.

    Args:
        folder: of the benchmark; contains the hospitals' data in `data/`.
        size: of the runs.
    """

    @contextlib.contextmanager
    def start(job: Path, work: Path) -> Iterator[Running]:
        process = start_simulator(
            job,
            hospitals=size.names,
            data=folder / "data",
            workspace=work,
            smallest_group=1,
            share_models=False,
            privacy=simulated_privacy(1),
            environment=os.environ,
        )
        try:
            yield Running(lambda: process.poll() is not None, work / "federation.log")
        finally:
            # FLARE's work after the rounds is not measured. Sites would end by themselves, but only
            # seconds later, during the next run.
            with contextlib.suppress(psutil.NoSuchProcess):
                sites = psutil.Process(process.pid).children(recursive=True)
                for each in (psutil.Process(process.pid), *sites):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        each.kill()
                psutil.wait_procs(sites)
            process.wait()

    yield Places(start, start)


@contextlib.contextmanager
def federated(folder: Path, size: Size) -> Iterator[Places]:
    """Runs a federation of our kits and one of FLARE's own until the context ends.

    In ours, the hospitals and the orchestrator let a lead bring code by their own policy, as the
    stand-ins and the clock are not part of the package. FLARE's kits allow it by default.
    """
    ours, stock = folder / "ours", folder / "stock"
    try:
        own = {
            "privacy": simulated_privacy(1).model_dump(),
            "further_rights": [further_right("lead", "byoc", "any")],
        }
        federation.up(ours, data=folder / "data", own=own)
        federation.down(ours)
        rights = AUTHORIZATION["permissions"]
        policy = {
            **AUTHORIZATION,
            "permissions": {**rights, "lead": {**rights["lead"], "byoc": "any"}},
        }
        for machine in (ours / "machines").glob("*/"):
            write_json(machine / _POLICY, policy)
        _provision_stock(stock, size)
        federation.up(ours)
        federation.up(stock)
        with _sessions(ours) as with_ours, _sessions(stock) as with_stock:
            yield Places(_starter(ours, with_ours), _starter(stock, with_stock))
    finally:
        for place in (ours, stock):
            federation.down(place)


def _sessions(place: Path) -> AbstractContextManager[Session]:
    return open_session(federation.admin_kit(place, federation.RESEARCHER))


def _provision_stock(place: Path, size: Size) -> None:
    """Makes the folders that `federation.up` would make, from FLARE's own kits."""
    port = federation.free_port()
    kits = provision(without_ours(federation.describe_project(size.names, port)), place / "flare")
    for name in (federation.ORCHESTRATOR, *size.names):
        shutil.copytree(kits / name, place / "machines" / name)
    for name in (federation.COORDINATOR, federation.RESEARCHER):
        shutil.copytree(kits / name, federation.admin_kit(place, name))
    # Its stores are in the federation's folder, not in /tmp; the rest is FLARE's default.
    orchestrator = place / "machines" / federation.ORCHESTRATOR
    resources = read_json_object(orchestrator / f"{_RESOURCES}.default")
    storage = resources["snapshot_persistor"]["args"]["storage"]["args"]
    storage["root_dir"] = str(orchestrator / "snapshots")
    [manager] = [each for each in resources["components"] if each["id"] == "job_manager"]
    manager["args"]["uri_root"] = str(orchestrator / "jobs")
    write_json(orchestrator / _RESOURCES, resources)


def _starter(place: Path, session: Session) -> Start:
    @contextlib.contextmanager
    def start(job: Path, work: Path) -> Iterator[Running]:
        job_id = session.submit(job)

        def ended() -> bool:
            return str(session.job(job_id)["status"]).startswith("FINISHED")

        try:
            yield Running(ended, place / "machines" / f"{federation.ORCHESTRATOR}.log")
        finally:
            with contextlib.suppress(Exception):
                session.abort(job_id)
            until = time.monotonic() + _PATIENCE
            while not ended():
                if time.monotonic() > until:
                    raise EnvironmentProblem(
                        "not-ended", "the job does not end", job_id, "see its log"
                    )
                time.sleep(0.5)

    return start
