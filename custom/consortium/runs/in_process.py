"""A job over a folder of hospitals in this process and a few forked ones, without FLARE.

The same rounds, trainers, wire format, validation and aggregation as in a federation, and so the
same bytes; FLARE's processes, codecs and configuration have no part in it. When to use it: to try
settings, to compare methods, to test rounds and rules. What always holds: a run that was killed at
any point goes on from its last closed round and ends with the same bytes. Where the machine itself
stops, at most the rounds of the last second before its last checkpoint on the disk are run again.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from consortium.core.errors import ConsortiumError, Failure, Incomplete
from consortium.core.json_files import read_json_object
from consortium.core.site_policy import Site
from consortium.orchestration.quorum import declare_quorum
from consortium.orchestration.rounds import Action, Ask, Close, Rounds, Stop, Timer
from consortium.protocol import requests
from consortium.runs.base import POLL, ResumableRun, View, Watch, hold_workspace, read_progress
from consortium.runs.hospitals import Answer, OpenTrainer, open_pool, open_trainer
from consortium.server.evaluations import Evaluations
from consortium.server.rendering import Renderer
from consortium.server.results import add_note, write_results
from consortium.server.run import TrainingRun
from consortium.server.state import Study
from consortium.settings.base import Settings
from consortium.tasks.folders import hospital_folders

_FLUSH = 1.0  # seconds between two checkpoints that are brought to the disk
_PATIENCE = 5.0  # seconds that the processes of a killed run may take to go

Tamper = Callable[[str, Answer], Answer]


def study_of(settings: Settings, hospitals: Sequence[str], **quorum: Any) -> Study:
    """A study of a job without a folder, for benchmarks and tests."""
    return Study("in-process", settings.task, declare_quorum(hospitals, quorum), settings)


class InProcessFederation:
    """The orchestrator of a run and its hospitals; a context manager.

    Args:
        study: what the job declares.
        sites: the hospitals' own choices.
        results: folder for what the run leaves.
        checkpoints: folder for what survives a kill; a run that is there is continued.
        workers: see `consortium.runs.hospitals.open_pool`.
        open_trainer: the same.
        tamper: is given every hospital's name and answer, and returns the answer that counts: for
            benchmarks and tests of hospitals that misbehave.
        watch: is called from time to time while hospitals work.

    Attributes:
        run: its rounds.
        evaluations: what is asked beside them.
    """

    def __init__(
        self,
        study: Study,
        sites: Sequence[Site],
        *,
        results: Path,
        checkpoints: Path,
        workers: int | None = None,
        open_trainer: OpenTrainer = open_trainer,
        tamper: Tamper = lambda name, answer: answer,
        watch: Callable[[], None] = lambda: None,
    ):
        # The hospitals first: a process that is forked now holds no model.
        self._pool = open_pool(
            sites, study.settings, workers=workers, open_trainer=open_trainer, tick=watch
        )
        self._tamper = tamper
        try:
            self.run = TrainingRun(study, results=results, checkpoints=checkpoints)
        except BaseException:
            self._pool.close()
            raise
        self.evaluations = Evaluations(self.run)
        self._flushed = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the hospitals' processes."""
        self._pool.close()

    def train(self, until: int | None = None) -> None:
        """Runs the rounds that are not done.

        Args:
            until: stop once so many are; by default all.

        Raises:
            Incomplete: `no-quorum`, with the hospitals and their codes.
            EnvironmentProblem: the disk is full.
        """
        state = self.run.state
        if state.run.stopped_early:
            return
        rounds = Rounds(
            self.run.quorum, state.settings.rounds, state.settings.seed, done=state.rounds_done
        )
        actions = deque(rounds.begin())
        timer: int | None = None
        opened = -1
        while actions or timer is not None:
            if not actions:  # nothing is under way, so that waiting would bring nothing
                assert timer is not None
                actions.extend(rounds.time_up(timer))
                timer = None
                continue
            match actions.popleft():
                case Ask(round=number, hospitals=hospitals):
                    if opened != number:
                        opened, _ = self.run.open_round()
                    actions.extend(self._ask_round(rounds, number, hospitals))
                case Timer(number=number):
                    timer = number
                case Close():
                    timer = None
                    self._close_round()
                    if until is not None and self.run.state.rounds_done >= until:
                        return
                    actions.extend(rounds.closed(stop=self.run.state.run.stopped_early))
                case Stop(reason=reason):
                    if reason:
                        raise Incomplete("no-quorum", reason)
                    return

    def _ask_round(self, rounds: Rounds, number: int, hospitals: Sequence[str]) -> list[Action]:
        following: list[Action] = []

        def take(name: str, answer: Any) -> None:
            refusal = self.run.submit(answer)
            if isinstance(answer, Failure):
                following.extend(rounds.failed(number, name, answer.code))
            elif refusal is not None:
                following.extend(rounds.failed(number, name, refusal.code))
            else:
                # Nothing is late here, so that no deadline follows from how long it took.
                following.extend(rounds.answered(number, name, 0.0))

        self.ask(requests.TRAIN, self.run.state.model, hospitals, take, round=number)
        return following

    def _close_round(self) -> None:
        last = self.run.state.rounds_done + 1 >= self.run.settings.rounds
        flush = last or time.monotonic() - self._flushed >= _FLUSH
        self.run.close_round(flush=flush)
        if flush:
            self._flushed = time.monotonic()

    def ask(
        self,
        request: str,
        model: Mapping[str, Tensor],
        targets: Sequence[str],
        take: Callable[[str, Any], object],
        **meta: int,
    ) -> None:
        """Asks hospitals; see `consortium.server.evaluations.Ask`."""

        def take_tampered(name: str, answer: Any) -> None:
            take(name, self._tamper(name, answer))

        self._pool.ask(request, model, targets, take_tampered, **meta)

    def evaluate(self) -> None:
        """Asks what the job wants to know after its rounds."""
        self.evaluations.ask_all(self.ask)

    def finish(self, trouble: str = "") -> dict[str, Any]:
        """Writes what the run leaves; see `consortium.server.results.write_results`."""
        return write_results(self.run, self.evaluations, trouble)


@dataclass(frozen=True, slots=True, kw_only=True)
class InProcessRun(ResumableRun):
    """A run without FLARE.

    Attributes:
        workers: see `consortium.runs.hospitals.open_pool`.
        open_trainer: the same.
        tamper: see `InProcessFederation`.
        render: whether the page and the curves are made.
    """

    workers: int | None = None
    open_trainer: OpenTrainer = open_trainer
    tamper: Tamper = lambda name, answer: answer
    render: bool = True

    def run(self, watch: Watch = lambda view: None) -> dict[str, Any]:
        """See `LocalRun.run`; a refusal of a start model or of a checkpoint is raised too."""
        workspace = self.workspace.resolve()
        settings = self.prepare()
        study = read_study(workspace / "job" / self.job.name, settings)
        folders = hospital_folders(self.data.resolve())
        states = {name: workspace / "hospitals" / name for name in folders}
        sites = [
            Site(
                name,
                folders[name],
                states[name] / study.run,
                smallest_group=self.smallest_group,
                share_local_model=settings.cross_site,
            )
            for name in study.hospitals
        ]
        with ExitStack() as stack:
            stack.enter_context(hold_workspace(workspace, _PATIENCE))
            for name in ("result.json", "hospitals/*/*/progress.json"):
                for stale in workspace.glob(name):
                    stale.unlink()
            watcher = _Watcher(watch, settings, states)
            federation = stack.enter_context(
                InProcessFederation(
                    study,
                    sites,
                    results=workspace,
                    checkpoints=workspace / "checkpoints",
                    workers=self.workers,
                    open_trainer=self.open_trainer,
                    tamper=self.tamper,
                    watch=watcher.tick,
                )
            )
            watcher.run = federation.run
            watcher.look()
            renderer = Renderer(workspace, settings) if self.render else None
            if renderer is not None:
                stack.callback(renderer.stop)
            result = _run_to_end(federation)
            federation.close()
            note = renderer.finish() if renderer is not None else ""
            watcher.look()
        return add_note(workspace, note) if note else result


def read_study(job: Path, settings: Settings) -> Study:
    """The study that a prepared job declares."""
    meta = read_json_object(job / "meta.json")
    ours = meta["consortium"]
    quorum = declare_quorum(ours["hospitals"], ours.get("quorum", {}))
    return Study(ours["run"], str(meta["name"]), quorum, settings)


def _run_to_end(federation: InProcessFederation) -> dict[str, Any]:
    trouble = ""
    try:
        federation.train()
        federation.evaluate()
    except ConsortiumError as error:
        trouble = " ".join(str(error).removeprefix("error ").split())[:500]
    return federation.finish(trouble)


class _Watcher:
    """Shows a run from time to time."""

    def __init__(self, watch: Watch, settings: Settings, states: Mapping[str, Path]):
        self._watch, self._settings, self._states = watch, settings, states
        self._looked = time.monotonic()
        self.run: TrainingRun | None = None

    def tick(self) -> None:
        """Takes a look, unless the last one was a moment ago."""
        if time.monotonic() - self._looked >= POLL:
            self.look()

    def look(self) -> None:
        """Takes a look."""
        records = self.run.state.run.records if self.run is not None else []
        progress = read_progress(self._states)
        self._watch(View(self._settings, [record.to_dict() for record in records], progress))
        self._looked = time.monotonic()
