"""Hospitals that answer in this process, or in a few processes that are forked from it.

A hospital and the run exchange what they exchange in a federation: flat buffers and plain values,
compressed if the job asks for it, or a failure's code. Invariants: every request is answered; an
error's text is only in the hospital's `errors.log`; the answers are the same bytes for any number
of processes; no process outlives the one that forked it.
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
_MAX_ATTEMPTS = 2  # of a request whose process dies
_PR_SET_PDEATHSIG = 1


def open_trainer(
    site: Site, settings: Settings, report: Callable[[Progress], None]
) -> LocalTrainer:
    """Opens the trainer of a hospital, on this machine's GPU if it has one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return LocalTrainer(site, settings, device=device, report=report)


class HospitalPool(Protocol):
    """Sends requests to hospitals and receives their answers."""

    def ask(
        self,
        request: str,
        model: Mapping[str, Tensor],
        targets: Sequence[str],
        take: Take,
        **meta: int,
    ) -> None:
        """Sends one request; see `consortium.server.evaluations.Ask`."""

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
        workers: number of processes; 1 means this one. The default is one per core, but this one if
            a GPU is used, because a forked process cannot use a GPU.
        open_trainer: opens a hospital's trainer.
        tick: called from time to time while hospitals work.
    """
    if workers is None:
        workers = 1 if torch.cuda.is_available() else len(os.sched_getaffinity(0))
    workers = min(workers, len(sites))
    hospitals = [_Hospital(site, settings, open_trainer) for site in sites]
    if workers <= 1:
        return _SerialPool(hospitals, settings, tick)
    return _ForkedPool(hospitals, settings, workers, tick)


class _Hospital:
    """Answers for one hospital, whose trainer is opened at the first request."""

    def __init__(self, site: Site, settings: Settings, open_trainer: OpenTrainer):
        self.site, self._settings, self._open_trainer = site, settings, open_trainer
        self._trainer: LocalTrainer | None = None
        self._progress = _ProgressFile(site.state / "progress.json")
        self.tick: Callable[[], None] = lambda: None

    def answer(self, request: str, model: Mapping[str, Tensor], meta: Mapping[str, int]) -> Message:
        """Answers a request; an error is answered with its code."""
        try:
            return self._answer(request, model, meta)
        except Exception as error:  # as in a federation, so that no round waits for this hospital
            note_error(self.site.state, error)
            return ("failure", {"code": failure_of(error, self.site.name).code})

    def _answer(
        self, request: str, model: Mapping[str, Tensor], meta: Mapping[str, int]
    ) -> Message:
        if request == requests.LOCAL_MODEL and not self.site.share_local_model:
            raise Refused(
                "not-shared", "this hospital does not share its model", request, "ask the hospital"
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
    """Progress of a hospital, for people; written at every new stage and every `_INTERVAL`."""

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
        replace_file(self._path, lambda partial_path: partial_path.write_text(text), flush=False)


def _pipeline_of(settings: Settings, request: str) -> Pipeline:
    """Returns the steps of an update's pipeline; the training without a hospital keeps no state."""
    pipeline = build_pipeline(settings.update)
    return pipeline.without_state() if request == requests.WITHOUT else pipeline


def _receive(settings: Settings, request: str, name: str, message: Message) -> Answer:
    """Decodes a hospital's message as the orchestrator does."""
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
    """Runs every hospital in this process, one after the other."""

    def __init__(
        self, hospitals: Sequence[_Hospital], settings: Settings, tick: Callable[[], None]
    ):
        self._settings, self._tick = settings, tick
        self._hospitals = {hospital.site.name: hospital for hospital in hospitals}
        for hospital in hospitals:
            hospital.tick = tick
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
    """A forked process, its hospitals, and those that have not answered yet."""

    hospitals: Mapping[str, _Hospital]
    process: BaseProcess
    connection: Connection
    waiting: list[str] = field(default_factory=list)


class _ForkedPool:
    """Runs hospitals in processes that are forked at once, each for several of them.

    A fork has torch and MONAI imported already. This process trains nothing, because torch's
    threads would be missing in a process that is forked later.
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
            share = {hospital.site.name: hospital for hospital in hospitals[number::workers]}
            self._workers.append(self._fork(share))

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
        task = (request, meta, *pack(model))
        deaths = dict.fromkeys(targets, 0)
        for worker in self._workers:
            worker.waiting = [name for name in targets if name in worker.hospitals]
            self._send(worker, task)
        while any(worker.waiting for worker in self._workers):
            busy = {worker.connection: worker for worker in self._workers if worker.waiting}
            for ready in wait(list(busy), POLL):
                worker = busy[ready]  # type: ignore[index]
                try:
                    name, message = worker.connection.recv()
                except (EOFError, OSError):
                    self._replace(worker, task, deaths, take)
                    continue
                worker.waiting.remove(name)
                take(name, _receive(self._settings, request, name, message))
            self._tick()

    def _send(self, worker: _Worker, task: Message) -> None:
        if worker.waiting:
            with contextlib.suppress(OSError):  # reading its answer shows that it is gone
                worker.connection.send((worker.waiting, *task))

    def _replace(self, worker: _Worker, task: Message, deaths: dict[str, int], take: Take) -> None:
        """Forks a process in place of one that died, and sends the request once more."""
        self._end(worker)
        name = worker.waiting[0]
        deaths[name] += 1
        last = deaths[name] >= _MAX_ATTEMPTS
        died = Incomplete(
            "training-died",
            f"the trainer process ended (exit code {worker.process.exitcode})",
            f"hospital {name}",
            "check whether memory ran out" + ("" if last else "; the process is restarted"),
        )
        note_error(worker.hospitals[name].site.state, died)
        self._workers.remove(worker)
        fresh = self._fork(worker.hospitals)
        fresh.waiting = worker.waiting[1:] if last else worker.waiting
        self._workers.append(fresh)
        if last:
            take(name, Failure(name, died.code))
        self._send(fresh, task)

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
    # Open copies of the parent's pipe ends would keep other processes waiting after its end.
    for other in others:
        other.close()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for the parent
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, OSError):
        while True:
            names, request, meta, contents, buffers = connection.recv()
            model = unpack(contents, buffers)
            for name in names:
                connection.send((name, hospitals[name].answer(request, model, meta)))
