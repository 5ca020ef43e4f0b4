"""Hospitals that answer in a few processes which are forked from this one.

A fork has torch and MONAI imported already. This process trains nothing, because torch's threads
would be missing in a process that is forked later. Buffers are exchanged in shared memory: the
model is put there once for all processes, and each process has two places for its answers, so that
it works on the next answer while the last one is taken. Invariants: every request is answered; no
process outlives the one that forked it.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch
from torch import Tensor

from consortium.client.shared_memory import SharedBuffers, open_memory
from consortium.core.errors import Failure, Incomplete
from consortium.core.site_policy import Site, note_error
from consortium.protocol.codec import pack, unpack
from consortium.runs.base import POLL
from consortium.runs.hospitals import (
    Hospital,
    HospitalPool,
    Message,
    OpenTrainer,
    SerialPool,
    Take,
    open_trainer,
    receive,
)
from consortium.settings.base import Settings

_MAX_ATTEMPTS = 2  # of a request whose process dies
_PLACES = 2  # for answers of one process
_PR_SET_PDEATHSIG = 1


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
    hospitals = [Hospital(site, settings, open_trainer) for site in sites]
    if workers <= 1:
        return SerialPool(hospitals, settings, tick)
    return ForkedPool(hospitals, settings, workers, tick)


@dataclass(slots=True)
class _Worker:
    """A forked process, its hospitals, and those that have not answered yet."""

    hospitals: Mapping[str, Hospital]
    process: BaseProcess
    connection: Connection
    places: Sequence[SharedBuffers]
    waiting: list[str] = field(default_factory=list)


class ForkedPool:
    """Runs hospitals in processes that are forked at once, each for several of them.

    Args:
        hospitals: in the order of their names.
        settings: the job's.
        workers: number of processes, at most one for each hospital.
        tick: called from time to time while hospitals work.
    """

    def __init__(
        self,
        hospitals: Sequence[Hospital],
        settings: Settings,
        workers: int,
        tick: Callable[[], None],
    ):
        self._settings, self._tick = settings, tick
        self._context = multiprocessing.get_context("fork")
        self._model = SharedBuffers(open_memory())
        self._workers: list[_Worker] = []
        for number in range(workers):
            share = {hospital.site.name: hospital for hospital in hospitals[number::workers]}
            self._workers.append(self._fork(share))

    def _fork(self, hospitals: Mapping[str, Hospital]) -> _Worker:
        ours, theirs = self._context.Pipe()
        places = [SharedBuffers(open_memory()) for _ in range(_PLACES)]
        others = [ours, *(worker.connection for worker in self._workers)]
        process = self._context.Process(
            target=_serve,
            args=(theirs, others, hospitals, self._model, places, os.getpid()),
            daemon=True,
        )
        process.start()
        theirs.close()
        return _Worker(hospitals, process, ours, places)

    def ask(
        self,
        request: str,
        model: Mapping[str, Tensor],
        targets: Sequence[str],
        take: Take,
        **meta: int,
    ) -> None:
        """See `consortium.runs.hospitals.HospitalPool`."""
        contents, buffers = pack(model)
        task = (request, meta, contents, self._model.put(buffers))
        deaths = dict.fromkeys(targets, 0)
        for worker in self._workers:
            worker.waiting = [name for name in targets if name in worker.hospitals]
            self._send(worker, task)
        while any(worker.waiting for worker in self._workers):
            busy = {worker.connection: worker for worker in self._workers if worker.waiting}
            for ready in wait(list(busy), POLL):
                worker = busy[ready]  # type: ignore[index]
                try:
                    name, message = self._read(worker)
                except (EOFError, OSError):
                    self._replace(worker, task, deaths, take)
                    continue
                worker.waiting.remove(name)
                take(name, receive(self._settings, request, name, message))
            self._tick()

    def _send(self, worker: _Worker, task: Message) -> None:
        if worker.waiting:
            with contextlib.suppress(OSError):  # reading its answer shows that it is gone
                worker.connection.send((worker.waiting, *task))

    def _read(self, worker: _Worker) -> tuple[str, Message]:
        """Reads an answer and gives its place back to the process."""
        name, place, message = worker.connection.recv()
        if message[0] == "update":
            # A rule may keep the update until the round closes.
            shared = worker.places[place].get(message[1])
            message = (message[0], {key: flat.copy() for key, flat in shared.items()}, *message[2:])
        worker.connection.send(place)
        return name, message

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
        for place in worker.places:
            place.close()

    def close(self) -> None:
        """Ends the processes; safe to call twice."""
        for worker in self._workers:
            self._end(worker)
        self._workers = []
        self._model.close()


def _serve(
    connection: Connection,
    others: Sequence[Connection],
    hospitals: Mapping[str, Hospital],
    memory: SharedBuffers,
    places: Sequence[SharedBuffers],
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
            names, request, meta, contents, locations = connection.recv()
            model = unpack(contents, memory.get(locations))
            free = list(range(len(places)))
            for name in names:
                message = hospitals[name].answer(request, model, meta)
                if not free:
                    free.append(connection.recv())
                place = free.pop()
                if message[0] == "update":
                    message = (message[0], places[place].put(message[1]), *message[2:])
                connection.send((name, place, message))
            while len(free) < len(places):
                free.append(connection.recv())
