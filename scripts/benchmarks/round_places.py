"""Where the jobs of the benchmark `round` run: in FLARE's simulator, or in two real federations."""

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
from consortium.flare.provisioner import provision
from consortium.flare.session import Session, open_session
from consortium.flare.simulator import start_simulator
from consortium.kits.site_defaults import AUTHORIZATION
from consortium.runs import federation

_PATIENCE = 60  # seconds that an ended job may take to be put away
_POLICY = "local/authorization.json"
_RESOURCES = "local/resources.json"


@dataclass(frozen=True, slots=True)
class Running:
    """A job that runs.

    Attributes:
        ended: tells whether it has ended by itself.
        log: where its orchestrator says what went wrong.
    """

    ended: Callable[[], bool]
    log: Path


Start = Callable[[Path, Path], AbstractContextManager[Running]]
"""Starts a job's folder with a folder of its own, and ends what still runs when that is left."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where each side's jobs run.

    Attributes:
        ours: with this package's kits and policies.
        stock: with FLARE's.
    """

    ours: Start
    stock: Start


@contextlib.contextmanager
def simulated(folder: Path, size: Size) -> Iterator[Places]:
    """FLARE's simulator for both, each run in one of its own.

    Args:
        folder: of the benchmark; the hospitals' data lie in its `data/`.
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
            environment=os.environ,
        )
        try:
            yield Running(lambda: process.poll() is not None, work / "federation.log")
        finally:
            # What FLARE does after the rounds is not measured. Sites would end by themselves, but
            # only seconds later, in the middle of the next run.
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
    """A federation of our kits and one of FLARE's own, up as long as this lasts.

    In ours the hospitals and the orchestrator let a lead bring code, by their own policy, for the
    stand-ins and the clock are none of the package's; FLARE's kits let him anyway.
    """
    ours, stock = folder / "ours", folder / "stock"
    try:
        federation.up(ours, data=folder / "data")
        federation.down(ours)
        rights = AUTHORIZATION["permissions"]
        policy = {
            **AUTHORIZATION,
            "permissions": {**rights, "lead": {**rights["lead"], "byoc": "any"}},
        }
        for machine in (ours / "machines").glob("*/"):
            write_json(machine / _POLICY, policy)
        _lay_out_stock(stock, size)
        federation.up(ours)
        federation.up(stock)
        with _sessions(ours) as with_ours, _sessions(stock) as with_stock:
            yield Places(_starter(ours, with_ours), _starter(stock, with_stock))
    finally:
        for place in (ours, stock):
            federation.down(place)


def _sessions(place: Path) -> AbstractContextManager[Session]:
    return open_session(federation.admin_kit(place, federation.RESEARCHER))


def _lay_out_stock(place: Path, size: Size) -> None:
    """What `federation.up` would make, of FLARE's own kits."""
    port = federation.free_port()
    kits = provision(without_ours(federation.describe_project(size.names, port)), place / "flare")
    for name in (federation.ORCHESTRATOR, *size.names):
        shutil.copytree(kits / name, place / "machines" / name)
    for name in (federation.COORDINATOR, federation.RESEARCHER):
        shutil.copytree(kits / name, federation.admin_kit(place, name))
    # Its stores lie in the federation's folder and not below /tmp; the rest is FLARE's.
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
                    raise EnvironmentProblem("not-ended", "the job goes on", job_id, "see its log")
                time.sleep(0.5)

    return start
