"""Runs a job over a folder of hospitals in this process and a few forked ones, without FLARE.

Rounds, trainers, wire format, validation and aggregation are those of a federation, and so are the
resulting bytes; FLARE's processes, codecs and configuration are not used. When to use it: to try
settings, to compare methods, to test rounds and rules. Invariant: a run that was killed at any
point resumes from its last closed round and ends with the same bytes. If the machine itself stops,
it resumes from the last checkpoint on the disk, which may be about a second older.
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
from consortium.core.site_policy import ALL_COLUMNS, HOME, Privacy, Site
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

_FLUSH = 1.0  # seconds between two checkpoints that are flushed to the disk
_END_TIMEOUT = 5.0  # seconds that the processes of a killed run may take to end

Tamper = Callable[[str, Answer], Answer]


def study_of(settings: Settings, hospitals: Sequence[str], **quorum: Any) -> Study:
    """Declares a study without a job folder, for benchmarks and tests."""
    return Study("in-process", settings.task, declare_quorum(hospitals, quorum), settings)


class InProcessFederation:
    """The orchestrator of a run and its hospitals; a context manager.

    Args:
        study: the job's declaration.
        sites: the hospitals' own choices.
        results: folder for the results.
        checkpoints: folder for the checkpoints; a run that is there is continued.
        workers: see `consortium.runs.hospitals.open_pool`.
        open_trainer: see `consortium.runs.hospitals.open_pool`.
        tamper: replaces a hospital's answer, given its name: for benchmarks and tests of hospitals
            that misbehave.
        watch: called from time to time while hospitals work.

    Attributes:
        run: the rounds.
        evaluations: the evaluations after the rounds.
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
        # The pool comes first: a process that is forked now holds no model.
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
        """Runs the remaining rounds.

        Args:
            until: stop after so many closed rounds; by default after all.

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
            if not actions:  # no request is running, so that waiting would change nothing
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
                # No answer is late here, so that no deadline may follow from its duration.
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
        """Sends one request; see `consortium.server.evaluations.Ask`."""

        def take_tampered(name: str, answer: Any) -> None:
            take(name, self._tamper(name, answer))

        self._pool.ask(request, model, targets, take_tampered, **meta)

    def evaluate(self) -> None:
        """Runs the job's evaluations."""
        self.evaluations.ask_all(self.ask)

    def finish(self, trouble: str = "") -> dict[str, Any]:
        """Writes the results; see `consortium.server.results.write_results`."""
        return write_results(self.run, self.evaluations, trouble)


@dataclass(frozen=True, slots=True, kw_only=True)
class InProcessRun(ResumableRun):
    """A run without FLARE.

    Attributes:
        workers: see `consortium.runs.hospitals.open_pool`.
        open_trainer: see `consortium.runs.hospitals.open_pool`.
        tamper: see `InProcessFederation`.
        render: whether to render the page and the curves.
    """

    workers: int | None = None
    open_trainer: OpenTrainer = open_trainer
    tamper: Tamper = lambda name, answer: answer
    render: bool = True

    def run(self, watch: Watch = lambda view: None) -> dict[str, Any]:
        """See `LocalRun.run`; also raises the refusal of a start model or of a checkpoint."""
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
                privacy=Privacy(columns=ALL_COLUMNS),
                home=states[name] / HOME,
            )
            for name in study.hospitals
        ]
        with ExitStack() as stack:
            stack.enter_context(hold_workspace(workspace, _END_TIMEOUT))
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
            watcher.report()
            renderer = Renderer(workspace, settings) if self.render else None
            if renderer is not None:
                stack.callback(renderer.stop)
            result = _run_to_end(federation)
            federation.close()
            note = renderer.finish() if renderer is not None else ""
            watcher.report()
        return add_note(workspace, note) if note else result


def read_study(job: Path, settings: Settings) -> Study:
    """Reads the study that a prepared job declares."""
    meta = read_json_object(job / "meta.json")
    declared = meta["consortium"]
    quorum = declare_quorum(declared["hospitals"], declared.get("quorum", {}))
    return Study(declared["run"], str(meta["name"]), quorum, settings)


def _run_to_end(federation: InProcessFederation) -> dict[str, Any]:
    trouble = ""
    try:
        federation.train()
        federation.evaluate()
    except ConsortiumError as error:
        trouble = " ".join(str(error).removeprefix("error ").split())[:500]
    return federation.finish(trouble)


class _Watcher:
    """Reports the progress of a run from time to time."""

    def __init__(self, watch: Watch, settings: Settings, states: Mapping[str, Path]):
        self._watch, self._settings, self._states = watch, settings, states
        self._reported = time.monotonic()
        self.run: TrainingRun | None = None

    def tick(self) -> None:
        """Reports the progress, unless the last report was a moment ago."""
        if time.monotonic() - self._reported >= POLL:
            self.report()

    def report(self) -> None:
        """Reports the progress."""
        records = self.run.state.run.records if self.run is not None else []
        progress = read_progress(self._states)
        self._watch(View(self._settings, [record.to_dict() for record in records], progress))
        self._reported = time.monotonic()
