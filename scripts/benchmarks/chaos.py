"""Kills processes during runs and checks that every run ends complete, with unchanged bytes.

Each trial is a run in a federation of startup kits on this machine, in which a round needs every
hospital. A seed draws the kinds and times of the kills (SIGKILL). A killed parent process is
restarted, as the kit's own loop would do; everything else is left to the orchestrator. The bytes
are compared with those of an undisturbed run.
"""

import contextlib
import json
import random
import secrets
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
from scripts.benchmarks.report import Row, make_row
from scripts.benchmarks.training import JOB

from consortium.core.errors import ConsortiumError, EnvironmentProblem, Incomplete
from consortium.core.files import write_json
from consortium.core.json_files import read_json_object
from consortium.core.site_policy import simulated_privacy
from consortium.flare.job import checkpoint_folder
from consortium.flare.session import open_session
from consortium.orchestration.checkpoints import count_rounds
from consortium.orchestration.recovery import NEXT, attempt_of
from consortium.runs import federation
from consortium.runs.status import GOING_ON, describe
from consortium.study.job_folder import STUDY, export_job, seal_job
from consortium.synthetic.dataset import generate
from consortium.synthetic.hospitals import HOSPITALS

ORCHESTRATOR, ORCHESTRATOR_JOB, CHECKPOINTS = "orchestrator", "orchestrator's job", "checkpoints"
HOSPITAL, HOSPITAL_JOB, TRAINING = "hospital", "hospital's job", "training"
KINDS = (ORCHESTRATOR, ORCHESTRATOR_JOB, CHECKPOINTS, HOSPITAL, HOSPITAL_JOB, TRAINING)
"""Processes to kill; `checkpoints` is the orchestrator's job while it writes a checkpoint."""
_MODULES = {
    ORCHESTRATOR: "nvflare.private.fed.app.server.server_train",
    ORCHESTRATOR_JOB: "nvflare.private.fed.app.server.runner_process",
    CHECKPOINTS: "nvflare.private.fed.app.server.runner_process",
    HOSPITAL: "nvflare.private.fed.app.client.client_train",
    HOSPITAL_JOB: "nvflare.private.fed.app.client.worker_process",
    TRAINING: "consortium.client.worker",
}
_KILLS, _ROUNDS = 5, 200
_BETWEEN = (2, 6)  # rounds that are closed between the recovery from a kill and the next kill
_PATIENCE = 180.0  # seconds without a new round after which a trial has failed
_POLL = 0.05


@dataclass(slots=True)
class Trial:
    """Result of one run.

    Attributes:
        model_sha256: digest of the final model.
        complete: whether the run is complete by its own result.
        rounds: number of closed rounds.
        jobs: number of FLARE jobs that the run took.
        gaps: for each kill in order: its kind, and the seconds until the run's next job had closed
            a round or the run had ended.
    """

    model_sha256: str = ""
    complete: bool = False
    rounds: int = 0
    jobs: int = 1
    gaps: list[tuple[str, float]] = field(default_factory=list)


def measure(quick: bool, trials: int = 10, seed: int = 0) -> list[Row]:
    """Runs the trials.

    Args:
        quick: one trial with one kill.
        trials: their number.
        seed: of the kinds and times of the kills.

    Raises:
        Incomplete: `run-lost`, if a run did not end complete with the undisturbed run's bytes.
    """
    draw = random.Random(seed)
    kinds = [KINDS[number % len(KINDS)] for number in range(trials * _KILLS)]
    draw.shuffle(kinds)
    plans = [kinds[start : start + _KILLS] for start in range(0, len(kinds), _KILLS)]
    if quick:
        plans = [[HOSPITAL_JOB]]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        job = prepare(folder, rounds=20 if quick else _ROUNDS)
        try:
            own = {"privacy": simulated_privacy(1).model_dump()}
            federation.up(folder / "federation", data=folder / "data", own=own, fork=False)
            undisturbed = run(folder / "federation", job, [], draw)
            done = []
            for number, plan in enumerate(plans, start=1):
                trial = run(folder / "federation", job, plan, draw)
                gaps = ", ".join(f"{kind} {gap:.0f} s" for kind, gap in trial.gaps)
                print(f"trial {number} of {len(plans)}: {trial.jobs} jobs; {gaps}", flush=True)
                if not trial.complete or trial.model_sha256 != undisturbed.model_sha256:
                    raise Incomplete("run-lost", f"trial {number}: {trial}", f"--seed {seed}")
                done.append(trial)
        finally:
            federation.down(folder / "federation")
    return _rows(done)


def _rows(trials: Sequence[Trial]) -> list[Row]:
    rows = [make_row("runs that ended complete, with the same bytes", [len(trials)], "runs")]
    for kind in KINDS:
        gaps = [gap for trial in trials for killed, gap in trial.gaps if killed == kind]
        if gaps:
            target = 30.0 if kind in (ORCHESTRATOR, HOSPITAL) else 20.0
            enough = len(gaps) >= 5
            rows.append(
                make_row(
                    f"{kind} killed: until the run has closed a round again",
                    gaps,
                    "s",
                    target=target if enough else None,
                )
            )
    return rows


def prepare(folder: Path, rounds: int) -> Path:
    """Writes the data of two hospitals and the job.

    Returns:
        The job.
    """
    hospitals = [replace(hospital, patients=6, held_out=0) for hospital in HOSPITALS[:2]]
    generate(folder / "data", hospitals, seed=1, in_plane=32, slices=6)
    export_job(
        JOB,
        folder / "job",
        hospitals=[hospital.name for hospital in hospitals],
        assignments=[
            f"rounds={rounds}",
            "data.size=[32,32]",
            "network.features=[4,8]",
            "training.local_steps=60",
            "training.batch=2",
        ],
        with_package=False,
    )
    return folder / "job"


def renew(job: Path) -> Path:
    """Makes an exported job a new one, which hospitals take for a new run; returns it."""
    study = read_json_object(job / STUDY)
    write_json(job / STUDY, {**study, "nonce": secrets.token_hex(16)})
    seal_job(job)
    return job


def run(place: Path, job: Path, kills: Sequence[str], draw: random.Random) -> Trial:
    """Runs a job in a running federation and kills processes during the run.

    Args:
        place: workspace of the federation.
        job: folder of the job to submit.
        kills: kinds of the kills, in order.
        draw: draws the hospital, and the number of rounds between kills.

    Raises:
        EnvironmentProblem: `stuck`, if no round is closed any more, or `too-short`.
    """
    trial, plan = Trial(), list(kills)
    with open_session(federation.admin_kit(place, federation.RESEARCHER)) as session:
        first = newest = session.submit(renew(job))
    checkpoints = checkpoint_folder(place / "machines" / federation.ORCHESTRATOR, first)
    wanted, killed, waiting, moved = draw.randint(*_BETWEEN), "", 0.0, time.monotonic()
    closed = at_kill = 0
    while True:
        time.sleep(_POLL)
        now = time.monotonic()
        rounds = count_rounds(checkpoints)
        if rounds > closed:
            closed, moved = rounds, now
        if now - moved > _PATIENCE:
            raise EnvironmentProblem("stuck", f"no round after {killed or 'the start'}", str(place))
        if killed:
            goes_on, before = _newest(place, newest)
            closed_more = goes_on != newest and rounds > before
            if killed == TRAINING:
                # The job goes on. The round of the kill may have been answered before it.
                closed_more = rounds > at_kill + 1
            # A job may end before it notices that a hospital's parent process is gone.
            if closed_more or find_end(place, goes_on):
                trial.gaps.append((killed, now - waiting))
                trial.jobs += goes_on != newest
                newest, killed = goes_on, ""
                wanted = rounds + draw.randint(*_BETWEEN)
            continue
        if plan and rounds >= wanted:
            killed = plan.pop(0)
            kill(place, killed, draw, checkpoints)
            waiting, at_kill = time.monotonic(), rounds
            if killed in (ORCHESTRATOR, HOSPITAL):
                time.sleep(1.0)
                federation.up(place, fork=False)
        elif not plan or now - moved > 1.0:
            ended = find_end(place, newest)
            if ended and plan:
                raise EnvironmentProblem("too-short", f"the run ended before {plan[0]}", str(place))
            if ended:
                trial.complete, trial.rounds = bool(ended["complete"]), int(ended["rounds"])
                trial.model_sha256 = str(ended["model_sha256"])
                return trial


def kill(place: Path, kind: str, draw: random.Random, checkpoints: Path, machine: str = "") -> None:
    """Kills a process of one kind: a drawn hospital's, or that of `machine`.

    Returns only when the process has ended, so that a restart does not find it still running.
    """
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        candidates = sorted(_find(place, _MODULES[kind], machine), key=lambda process: process.pid)
        # While a checkpoint is written there is a hidden file next to it.
        if candidates and (kind != CHECKPOINTS or any(checkpoints.glob(".*"))):
            with contextlib.suppress(psutil.Error):
                victim = draw.choice(candidates)
                victim.kill()
                victim.wait(_PATIENCE)
                return
        time.sleep(0.0005 if kind == CHECKPOINTS else _POLL)
    raise EnvironmentProblem("nothing-to-kill", kind, str(place))


def _find(place: Path, module: str, machine: str) -> Iterator[psutil.Process]:
    inside = str(place / "machines" / machine)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if module in words and any(word.startswith(inside) for word in words):
                yield process


def _newest(place: Path, job_id: str) -> tuple[str, int]:
    """Returns the newest job of a run and the rounds before it, if the orchestrator answers."""
    rounds = 0
    with (
        contextlib.suppress(ConsortiumError),
        open_session(federation.admin_kit(place, federation.RESEARCHER), timeout=3) as session,
    ):
        while following := session.job(job_id).get(NEXT):
            job_id = str(following)
        attempt = attempt_of(session.job(job_id))
        rounds = attempt.rounds if attempt is not None else 0
    return job_id, rounds


def find_end(place: Path, job_id: str) -> dict[str, object]:
    """Returns the result of a run that has ended; empty before."""
    with (
        contextlib.suppress(ConsortiumError),
        open_session(federation.admin_kit(place, federation.RESEARCHER), timeout=3) as session,
    ):
        if describe(session.job(job_id)).state not in GOING_ON:
            with tempfile.TemporaryDirectory() as temporary:
                left = session.download(job_id, Path(temporary)) / "workspace" / "consortium"
                result: dict[str, object] = json.loads((left / "result.json").read_text())
                return result
    return {}
