"""Hospitals that answer in this process, or in a few processes that are forked from it.

What crosses between a hospital and the run is what crosses in a federation: flat buffers and plain
values, compressed where the job asks for it, or a failure's code. What always holds: a request is
answered, whatever goes wrong at the hospital, where `errors.log` has the text; the answers are the
same bytes for any number of processes; and no process outlives the one that forked it.
"""

import contextlib
import ctypes
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import ValidationError
from torch import Tensor

from consortium.client.trainer import LocalTrainer, Progress
from consortium.core.errors import (
    Failure,
    Incomplete,
    Refused,
    UsageError,
    failure_from_wire,
    failure_of,
)
from consortium.core.files import replace_file
from consortium.core.site_policy import Site, note_error
from consortium.protocol import requests
from consortium.protocol.codec import pack, unpack
from consortium.protocol.metrics import Metrics
from consortium.protocol.pipeline import Pipeline, build_pipeline
from consortium.protocol.requests import call_of
from consortium.protocol.update import Update, UpdateRefused, update_from_wire, update_to_wire
from consortium.runs.base import POLL
from consortium.settings.base import Settings

Answer = Update | UpdateRefused | Metrics | Failure
Message = tuple[Any, ...]
"""`("update", buffers, plain)`, `("metrics", plain)` or `("failure", plain)`."""
Take = Callable[[str, Any], object]
OpenTrainer = Callable[[Site, Settings, Callable[[Progress], None]], LocalTrainer]

_INTERVAL = 0.5  # seconds between two writes of a progress file
_ATTEMPTS = 2  # of a request whose process dies
_PR_SET_PDEATHSIG = 1


def open_trainer(
    site: Site, settings: Settings, report: Callable[[Progress], None]
) -> LocalTrainer:
    """The trainer of a hospital, on this machine's GPU where it has one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return LocalTrainer(site, settings, device=device, report=report)


class HospitalPool(Protocol):
    """Asks hospitals and takes their answers."""

    def ask(
        self,
        request: str,
        model: Mapping[str, Tensor],
        targets: Sequence[str],
        take: Take,
        **meta: int,
    ) -> None:
        """Asks once; see `consortium.server.evaluations.Ask`."""

    def close(self) -> None:
        """Ends the processes, if any; safe to call twice."""


def open_pool(
    sites: Sequence[Site],
    settings: Settings,
    *,
    workers: int | None = None,
    open_trainer: OpenTrainer = open_trainer,
    tick: Callable[[], None] = lambda: None,
) -> HospitalPool:
    """Opens the hospitals of a run.

    Args:
        sites: the hospitals' own choices.
        settings: the job's.
        workers: processes that they share; 1 is this one. By default one a core, and this one
            where a GPU is used, for a forked process cannot use a GPU.
        open_trainer: opens a hospital.
        tick: is called from time to time while hospitals work.
    """
    if workers is None:
        workers = 1 if torch.cuda.is_available() else len(os.sched_getaffinity(0))
    workers = min(workers, len(sites))
    hospitals = [_Hospital(site, settings, open_trainer) for site in sites]
    if workers <= 1:
        return _SerialPool(hospitals, settings, tick)
    return _ForkedPool(hospitals, settings, workers, tick)


class _Hospital:
    """Answers for one hospital, which is opened at the first request."""

    def __init__(self, site: Site, settings: Settings, open_trainer: OpenTrainer):
        self.site, self._settings, self._open_trainer = site, settings, open_trainer
        self._trainer: LocalTrainer | None = None
        self._progress = _ProgressFile(site.state / "progress.json")
        self.tick: Callable[[], None] = lambda: None

    def answer(self, request: str, model: Mapping[str, Tensor], meta: Mapping[str, int]) -> Message:
        """Answers; what goes wrong is an answer too."""
        try:
            return self._answer(request, model, meta)
        except Exception as error:  # as in a federation, where no round waits for this hospital
            note_error(self.site.state, error)
            return ("failure", {"code": failure_of(error, self.site.name).code})

    def _answer(
        self, request: str, model: Mapping[str, Tensor], meta: Mapping[str, int]
    ) -> Message:
        if request == requests.LOCAL_MODEL and not self.site.share_local_model:
            raise Refused(
                "not-shared", "this hospital shows its model to nobody", request, "ask it"
            )
        call = call_of(request, meta)
        if call is None:
            raise UsageError("unknown-request", "no such request", request)
        if self._trainer is None:
            self._trainer = self._open_trainer(self.site, self._settings, self._report)
        method, arguments = call
        answer = getattr(self._trainer, method)(model, **arguments)
        if not isinstance(answer, Update):
            return ("metrics", answer.model_dump())
        sent = update_to_wire(answer)
        return ("update", *_pipeline_of(self._settings, request).client(*sent, self.site.state))

    def _report(self, progress: Progress) -> None:
        self._progress.write(progress)
        self.tick()


class _ProgressFile:
    """How far a hospital is, for people to look at; written at most every `_INTERVAL` a stage."""

    def __init__(self, path: Path):
        self._path = path
        self._stage, self._written = "", 0.0

    def write(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.stage == self._stage and now - self._written < _INTERVAL:
            return
        self._stage, self._written = progress.stage, now
        content = {
            "stage": progress.stage,
            "round": progress.round,
            "rounds": progress.rounds,
            "step": progress.step,
            "steps": progress.steps,
            "process": os.getpid(),
        }
        text = json.dumps(content)
        replace_file(self._path, lambda beside: beside.write_text(text), flush=False)


def _pipeline_of(settings: Settings, request: str) -> Pipeline:
    """The steps that an update goes through; a hospital keeps no state of a training next to it."""
    pipeline = build_pipeline(settings.update)
    return pipeline.without_state() if request == requests.WITHOUT else pipeline


def _receive(settings: Settings, request: str, name: str, message: Message) -> Answer:
    """What a hospital sent, as the orchestrator takes it."""
    match message:
        case ("update", buffers, plain):
            try:
                received = _pipeline_of(settings, request).server(buffers, plain)
                return update_from_wire(*received, name)
            except UpdateRefused as refusal:
                return refusal
            except ValueError:
                return UpdateRefused(name, "malformed")
        case ("metrics", plain):
            try:
                return Metrics.model_validate(plain)
            except ValidationError:
                return Failure(name, "malformed")
    return failure_from_wire(message[1], name)


class _SerialPool:
    """Every hospital in this process, one after the other."""

    def __init__(
        self, hospitals: Sequence[_Hospital], settings: Settings, tick: Callable[[], None]
    ):
        self._settings, self._tick = settings, tick
        self._hospitals = {each.site.name: each for each in hospitals}
        for each in hospitals:
            each.tick = tick
        self._threads = torch.get_num_threads()

    def ask(
        self,
        request: str,
        model: Mapping[str, Tensor],
        targets: Sequence[str],
        take: Take,
        **meta: int,
    ) -> None:
        torch.set_num_threads(1)  # as in a forked process, for the same bytes
        try:
            for name in targets:
                message = self._hospitals[name].answer(request, model, meta)
                take(name, _receive(self._settings, request, name, message))
                self._tick()
        finally:
            torch.set_num_threads(self._threads)

    def close(self) -> None:
        self._hospitals = {}


@dataclass(slots=True)
class _Worker:
    """A forked process, its hospitals, and those of them that have not answered."""

    hospitals: Mapping[str, _Hospital]
    process: BaseProcess
    connection: Connection
    waiting: list[str] = field(default_factory=list)


class _ForkedPool:
    """Hospitals in processes that are forked at once, each serving several of them.

    A fork has torch and MONAI imported already. Nothing is trained in this process, for threads of
    torch's would not be there in a process that is forked later.
    """

    def __init__(
        self,
        hospitals: Sequence[_Hospital],
        settings: Settings,
        workers: int,
        tick: Callable[[], None],
    ):
        self._settings, self._tick = settings, tick
        self._context = multiprocessing.get_context("fork")
        self._workers: list[_Worker] = []
        for number in range(workers):
            mine = {each.site.name: each for each in hospitals[number::workers]}
            self._workers.append(self._fork(mine))

    def _fork(self, hospitals: Mapping[str, _Hospital]) -> _Worker:
        ours, theirs = self._context.Pipe()
        others = [ours, *(worker.connection for worker in self._workers)]
        process = self._context.Process(
            target=_serve, args=(theirs, others, hospitals, os.getpid()), daemon=True
        )
        process.start()
        theirs.close()
        return _Worker(hospitals, process, ours)

    def ask(
        self,
        request: str,
        model: Mapping[str, Tensor],
        targets: Sequence[str],
        take: Take,
        **meta: int,
    ) -> None:
        job = (request, meta, *pack(model))
        deaths = dict.fromkeys(targets, 0)
        for worker in self._workers:
            worker.waiting = [name for name in targets if name in worker.hospitals]
            self._send(worker, job)
        while any(worker.waiting for worker in self._workers):
            busy = {worker.connection: worker for worker in self._workers if worker.waiting}
            for ready in wait(list(busy), POLL):
                worker = busy[ready]  # type: ignore[index]
                try:
                    name, message = worker.connection.recv()
                except (EOFError, OSError):
                    self._replace(worker, job, deaths, take)
                    continue
                worker.waiting.remove(name)
                take(name, _receive(self._settings, request, name, message))
            self._tick()

    def _send(self, worker: _Worker, job: Message) -> None:
        if worker.waiting:
            with contextlib.suppress(OSError):  # it is missed when its answer is read
                worker.connection.send((worker.waiting, *job))

    def _replace(self, worker: _Worker, job: Message, deaths: dict[str, int], take: Take) -> None:
        """Forks a process for one that died, by want of memory say, and asks once more."""
        self._end(worker)
        name = worker.waiting[0]
        deaths[name] += 1
        last = deaths[name] >= _ATTEMPTS
        died = Incomplete(
            "training-died",
            f"the process that trains ended with code {worker.process.exitcode}",
            f"hospital {name}",
            "see whether memory ran out" + ("" if last else "; it is started again"),
        )
        note_error(worker.hospitals[name].site.state, died)
        self._workers.remove(worker)
        fresh = self._fork(worker.hospitals)
        fresh.waiting = worker.waiting[1:] if last else worker.waiting
        self._workers.append(fresh)
        if last:
            take(name, Failure(name, died.code))
        self._send(fresh, job)

    def _end(self, worker: _Worker) -> None:
        worker.process.kill()
        worker.process.join()
        worker.connection.close()

    def close(self) -> None:
        for worker in self._workers:
            self._end(worker)
        self._workers = []


def _serve(
    connection: Connection,
    others: Sequence[Connection],
    hospitals: Mapping[str, _Hospital],
    parent: int,
) -> None:
    """Answers for some hospitals until the process that forked this one ends."""
    # The parent's ends of the pipes, which keep other processes waiting after its end.
    for other in others:
        other.close()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a person's Ctrl-C is for the parent
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, OSError):
        while True:
            names, request, meta, contents, buffers = connection.recv()
            model = unpack(contents, buffers)
            for name in names:
                connection.send((name, hospitals[name].answer(request, model, meta)))
