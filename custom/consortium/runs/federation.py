"""Starts and stops a real federation on one machine: one process and one kit per participant.

It is for trials, demonstrations and tests; in a study each hospital starts its own kit. The
workspace belongs to one federation:

* `coordinator/`: the output of `consortium.membership.provisioning`;
* `machines/NAME/`: the running copy of a kit, as on a machine of its own;
* `machines/NAME.log`: the output of its process;
* `admins/NAME/`: kits to log in with.

Invariants: every process here has its machine's folder on its command line, so that `down` finds it
even if its parent is gone; `up` starts only what does not run.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

from consortium.client.fork_server import ADDRESS, can_fork, start_server
from consortium.core.errors import EnvironmentProblem, Refused, UsageError
from consortium.core.files import replace_file, sole_user, write_json
from consortium.core.json_files import read_json_object
from consortium.core.site_policy import ALL_COLUMNS
from consortium.flare.session import open_session
from consortium.kits.hospital import HOSPITAL, HospitalFile
from consortium.kits.orchestrator import ORCHESTRATOR as ORCHESTRATOR_FILE
from consortium.kits.orchestrator import OrchestratorFile
from consortium.kits.project import BUILDERS
from consortium.membership.provisioning import KITS, create
from consortium.tasks.folders import hospital_folders

ORCHESTRATOR = "orchestrator"
COORDINATOR = "coordinator@consortium.example"
RESEARCHER = "researcher@consortium.example"
OBSERVER = "board@consortium.example"
UP_TIMEOUT = 60.0
"""Seconds within which all hospitals must register."""
_PARENTS = (
    "nvflare.private.fed.app.server.server_train",
    "nvflare.private.fed.app.client.client_train",
)
_END_TIMEOUT = 5.0  # seconds that a process may take to end before it is killed


@dataclass(frozen=True, slots=True)
class Machine:
    """A participant's process.

    Attributes:
        name: of the participant.
        process: id of its parent process; None if it does not run.
        connected: whether it is connected to the orchestrator, or is the running orchestrator.
    """

    name: str
    process: int | None
    connected: bool


def up(
    workspace: Path,
    *,
    hospitals: int | None = None,
    data: Path | None = None,
    own: Mapping[str, Any] | None = None,
    models: Path | None = None,
    fork: bool = True,
    report: Callable[[str], None] = lambda line: None,
) -> list[Machine]:
    """Provisions the federation if it is new, and starts every machine that does not run.

    Args:
        workspace: of the federation.
        hospitals: how many; by default all of `data`, or four.
        data: holds one folder per hospital, named like it.
        own: settings of every hospital's own file; see `consortium.kits.hospital`.
        models: folder of models that jobs may start from; see `consortium.kits.orchestrator`.
        fork: whether trainer processes are forked; see `consortium.client.fork_server`. If false,
            each is spawned, as at a hospital.
        report: receives a line for each step.

    Returns:
        The running machines, the orchestrator first.

    Raises:
        UsageError: the folder of data is wrong.
        Refused: the federation in the workspace has other hospitals.
        EnvironmentProblem: `not-up`, if a process ended or a hospital did not register.
    """
    workspace = workspace.resolve()
    folders = hospital_folders(data.resolve()) if data else {}
    names = list(folders)[:hospitals] or [f"hospital-{n}" for n in range(1, (hospitals or 4) + 1)]
    with sole_user(workspace):
        known = _known(workspace)
        if known and (data or hospitals) and sorted(known[1:]) != sorted(names):
            raise Refused(
                "other-hospitals",
                f"the federation in the workspace has the hospitals {', '.join(known[1:])}",
                str(workspace),
                "choose another workspace",
            )
        if not known:
            report("Provisioning")
            _provision(workspace, names)
            known = _known(workspace)
        for name, folder in folders.items():
            if name in known:
                file = workspace / "machines" / name / HOSPITAL
                content = choices_of_a_trial(read_json_object(file), own or {}, folder)
                write_json(file, HospitalFile.model_validate(content).model_dump())
        if models is not None:
            file = workspace / "machines" / ORCHESTRATOR / ORCHESTRATOR_FILE
            write_json(file, OrchestratorFile(models=str(models.resolve())).model_dump())
        running = _running(workspace)
        _start(workspace, [name for name in known if name not in running], fork=fork)
        report("Starting")
        return _wait(workspace, known)


def status(workspace: Path) -> list[Machine]:
    """Returns the state of a federation's machines, the orchestrator first.

    Raises:
        UsageError: `no-federation`.
    """
    workspace = workspace.resolve()
    known = _known(workspace)
    if not known:
        raise UsageError(
            "no-federation",
            "the workspace has no federation",
            str(workspace),
            "run scripts/federation up",
        )
    running = _running(workspace)
    connected: Sequence[str] = ()
    if ORCHESTRATOR in running:
        with (
            contextlib.suppress(EnvironmentProblem),
            open_session(admin_kit(workspace, COORDINATOR), timeout=3) as session,
        ):
            connected = [ORCHESTRATOR, *session.hospitals()]
    return [Machine(name, running.get(name), name in connected) for name in known]


def down(workspace: Path) -> list[str]:
    """Ends every process of a federation and keeps its files. Safe to run twice.

    Returns:
        Names of the machines that ran.
    """
    workspace = workspace.resolve()
    if not workspace.is_dir():
        return []
    with sole_user(workspace):
        names = sorted(_running(workspace))
        processes = _processes(workspace)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        _, alive = psutil.wait_procs(processes, timeout=_END_TIMEOUT)
        # Processes that were started meanwhile, and those that ignore SIGTERM.
        for process in {*alive, *_processes(workspace)}:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(_processes(workspace), timeout=_END_TIMEOUT)
        return names


def choices_of_a_trial(
    content: Mapping[str, Any], own: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """Returns the content of `hospital.json` for a folder of public or generated data.

    Jobs may read every column, unless columns are listed.

    Args:
        content: of the file in the kit.
        own: further settings.
        folder: the hospital's data.
    """
    merged = {**content, **own, "data": str(folder)}
    privacy = {**content.get("privacy", {}), **own.get("privacy", {})}
    return {**merged, "privacy": {**privacy, "columns": privacy.get("columns") or ALL_COLUMNS}}


def admin_kit(workspace: Path, name: str) -> Path:
    """Returns the folder of an admin's kit."""
    return workspace / "admins" / name


def _known(workspace: Path) -> list[str]:
    """Returns the names of a federation's machines, the orchestrator first."""
    names = {path.name for path in (workspace / "machines").glob("*/")}
    return [ORCHESTRATOR, *sorted(names - {ORCHESTRATOR})] if names else []


def _provision(workspace: Path, names: Sequence[str]) -> None:
    coordinator = workspace / "coordinator"
    project = describe_project(names, free_port())
    replace_file(
        coordinator / "project.yml", lambda path: YAML(typ="safe", pure=True).dump(project, path)
    )
    kits = create(coordinator / "project.yml", coordinator).kits
    # The machines appear last and together: a federation is complete or does not exist.
    for kit in sorted(kits, key=lambda kit: kit.participant.type != "admin"):
        name = kit.participant.name
        folder = workspace / ("admins" if kit.participant.type == "admin" else "starting") / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(coordinator / KITS / name, folder)
    (workspace / "starting").rename(workspace / "machines")


def describe_project(names: Sequence[str], port: int) -> dict[str, Any]:
    """Returns the content of a project file for a federation on this machine.

    Args:
        names: of the hospitals.
        port: of the orchestrator.
    """
    people = {COORDINATOR: "project_admin", RESEARCHER: "lead", OBSERVER: "member"}
    sites = [{"name": name, "type": "client", "org": _organisation(name)} for name in names]
    return {
        "api_version": 3,
        "name": "consortium",
        "participants": [
            {
                "name": ORCHESTRATOR,
                "type": "server",
                "org": "coordination",
                "fed_learn_port": port,
                "default_host": "localhost",
                "host_names": ["127.0.0.1"],
            },
            *sites,
            *(
                {"name": name, "type": "admin", "org": "coordination", "role": role}
                for name, role in people.items()
            ),
            *(
                {
                    "name": f"steward@{site['name'].replace('_', '-')}.example",
                    "type": "admin",
                    "org": site["org"],
                    "role": "org_admin",
                }
                for site in sites
            ),
        ],
        "builders": [
            *({"path": path} for path in BUILDERS),
            {
                "path": "nvflare.lighter.impl.static_file.StaticFileBuilder",
                "args": {"config_folder": "config", "scheme": "grpc", "require_signed_jobs": True},
            },
            {"path": "nvflare.lighter.impl.cert.CertBuilder", "args": {"root_valid_days": 1825}},
        ],
    }


def _organisation(name: str) -> str:
    return "".join(char if char.isalnum() else "_" for char in name)


def free_port() -> int:
    """Returns a port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(workspace: Path, names: Sequence[str], *, fork: bool) -> None:
    """Starts machines and one fork server for them, which ends when the last of them does."""
    # Busy-waiting threads of several processes cost far more than they gain.
    quiet = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**quiet, **os.environ, "PATH": path}
    hospitals = [name for name in names if name != ORCHESTRATOR]
    if not fork:
        environment.pop(ADDRESS, None)
    if not fork or not hospitals or not can_fork(environment):
        for name in names:
            _start_machine(workspace, name, environment)
        return
    life, held = os.pipe()
    try:
        mark = f"{workspace / 'machines'}{os.sep}"
        server = start_server(life, environment, mark=mark)
        environment[ADDRESS] = server.address
        server.detach()
        for name in names:
            _start_machine(workspace, name, environment, (held,))
    finally:
        os.close(life)
        os.close(held)


def _start_machine(
    workspace: Path, name: str, environment: Mapping[str, str], held: Sequence[int] = ()
) -> None:
    """Starts one machine, which holds file descriptors for as long as it runs."""
    kit = workspace / "machines" / name
    with kit.with_suffix(".log").open("ab") as log:
        # A shell starts it and ends at once, so that it is no child of this process.
        subprocess.run(
            ["sh", "-c", '"$@" &', "sh", str(kit / "startup" / "sub_start.sh"), "--once"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            pass_fds=held,
            start_new_session=True,
            check=True,
        )


def _wait(workspace: Path, known: Sequence[str]) -> list[Machine]:
    """Waits until every hospital has registered, while all machines run."""
    started = time.monotonic()
    dead: list[str] = []
    connected: list[str] = []
    while not dead and time.monotonic() - started < UP_TIMEOUT:
        with (
            contextlib.suppress(EnvironmentProblem),
            open_session(admin_kit(workspace, COORDINATOR), timeout=5) as session,
        ):
            connected = session.hospitals()
        running = _running(workspace)
        if set(known) <= {ORCHESTRATOR, *connected} and set(known) <= set(running):
            return [Machine(name, running[name], True) for name in known]
        # It takes a moment until a process has its folder on its command line.
        if time.monotonic() - started > _END_TIMEOUT:
            dead = [name for name in known if name not in running]
        time.sleep(0.3)
    missing = dead or [name for name in known[1:] if name not in connected] or [ORCHESTRATOR]
    log = workspace / "machines" / f"{missing[0]}.log"
    raise EnvironmentProblem(
        "not-up",
        f"{', '.join(missing)} {'ended' if dead else 'did not register'}",
        str(log),
        f"see this log ({_last_error(log)})",
    )


def _last_error(log: Path) -> str:
    with contextlib.suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line for line in lines if "error" in line.lower()]
        return (errors or lines or [""])[-1][:300]
    return ""


def _processes(workspace: Path) -> list[psutil.Process]:
    """Returns all processes with a machine's folder on their command line, orphans included."""
    prefix = f"{workspace / 'machines'}{os.sep}"
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and any(
                word.startswith(prefix) for word in process.cmdline()
            ):
                processes.append(process)
    return processes


def _running(workspace: Path) -> dict[str, int]:
    """Returns the machines whose parent process runs, with its id."""
    running = {}
    for process in _processes(workspace):
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if any(word in _PARENTS for word in words):
                folder = Path(words[words.index("-m", words.index("-m") + 1) + 1])
                running[folder.name] = process.pid
            for word in words:
                if word.endswith("startup/sub_start.sh"):
                    running.setdefault(Path(word).parents[1].name, process.pid)
    return running
