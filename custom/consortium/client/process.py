"""Runs a hospital's training in a process of its own; see `consortium.client.worker`.

Nothing here needs torch, so that the process of FLARE's job at the hospital stays small.
Invariants: a request is answered, or ends with an error that has a code. If the process dies, by a
crash or for lack of memory, it is restarted and the request is sent once more.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from numpy.typing import NDArray

from consortium.client.fork_server import ForkedProcess, fork_worker
from consortium.client.shared_memory import STOP, SharedBuffers, open_memory
from consortium.core.errors import ConsortiumError, Incomplete
from consortium.core.site_policy import Site, note_error
from consortium.protocol.metrics import Metrics
from consortium.settings.base import Settings

_POLL = 0.2  # seconds between two checks whether to stop the work
GRACE = 10.0  # seconds that the process may take to stop
_RETRIES = 1
_SLOTS = 2  # memories for answers; one answer may still be on its way


class Stopped(Exception):
    """The caller stopped the work; not an error."""


class Failed(ConsortiumError):
    """An error in the trainer process, of which only the code is known here."""


class _Died(Exception):
    """The process has ended."""


class TrainerProcess:
    """A hospital's trainer in its own process, which starts at once and answers one at a time.

    Args:
        hospital: the trainer's class as `module:name`; see
            `consortium.client.trainer.LocalTrainer`.
        site: the hospital's own choices.
        settings: the job's.
    """

    def __init__(self, hospital: str, site: Site, settings: Settings):
        self._opening = (hospital, site, settings, os.getpid())
        self._site = site
        self._start()

    def ask(
        self,
        method: str,
        model: tuple[Any, Mapping[str, NDArray[Any]]],
        stop: Callable[[], bool],
        **arguments: Any,
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | Metrics:
        """Calls a method of the trainer with a model.

        Args:
            method: of `LocalTrainer`.
            model: as returned by `consortium.protocol.codec.pack`.
            stop: returns whether to stop the work.
            arguments: of the method, besides the model.

        Returns:
            An update as returned by `consortium.protocol.update.update_to_wire`, or metrics.

        Raises:
            Stopped: the work was stopped.
            Failed: with the code of the error in the trainer process.
            Incomplete: `training-died`, if the process died at every attempt.
        """
        for retries_left in range(_RETRIES, -1, -1):
            try:
                return self._ask(method, model, stop, arguments)
            except _Died:
                died = Incomplete(
                    "training-died",
                    f"the trainer process ended ({self._end()})",
                    f"hospital {self._site.name}",
                    "check whether memory ran out"
                    + ("; the process is restarted" if retries_left else ""),
                )
                note_error(self._site.state, died)
                self._start()
        raise died

    def make(self, sizes: Mapping[str, tuple[str, int]]) -> dict[str, NDArray[Any]]:
        """Allocates buffers for a model that `ask` need not copy; earlier ones become invalid.

        Args:
            sizes: numpy's name of the dtype and the number of elements, by key.
        """
        return self._memory.make(sizes)

    def close(self) -> None:
        """Ends the process."""
        self._end()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        files = [open_memory() for _ in range(1 + _SLOTS)]
        with theirs:
            self._process = self._start_worker((theirs.fileno(), *files))
        self._channel = Connection(ours.detach())
        self._memory, *self._slots = map(SharedBuffers, files)
        self._lent: list[list[weakref.ref[NDArray[Any]]]] = [[] for _ in self._slots]
        with contextlib.suppress(OSError):  # `ask` notices that the process is gone
            self._channel.send(self._opening)

    def _start_worker(self, files: Sequence[int]) -> "subprocess.Popen[bytes] | ForkedProcess":
        """Forks a worker with these file descriptors, or spawns it if there is no fork server."""
        arguments = ("--site", self._site.name, "--state", str(self._site.state))
        return fork_worker(arguments, files) or subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "consortium.client.worker"),
                *(*arguments, *map(str, files)),
            ],
            stdin=subprocess.DEVNULL,
            # A job may bring the package with it.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            pass_fds=files,
        )

    def _ask(
        self,
        method: str,
        model: tuple[Any, Mapping[str, NDArray[Any]]],
        stop: Callable[[], bool],
        arguments: Mapping[str, Any],
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | Metrics:
        contents, buffers = model
        try:
            slot = [self._is_free(number) for number in range(_SLOTS)].index(True)
            locations = self._memory.put(buffers)
            self._channel.send((method, dict(arguments), contents, locations, slot))
            answer = self._wait(stop)
        except (EOFError, OSError):
            raise _Died from None
        match answer:
            case ("update", plain, locations):
                return self._lend(slot, locations), plain
            case ("metrics", plain):
                return Metrics.model_validate(plain)
            case ("failed", code):
                raise Failed(code, "the hospital's training failed", self._site.name)
            case _:
                raise Stopped

    def _lend(self, slot: int, locations: Any) -> dict[str, NDArray[Any]]:
        """Returns an answer's buffers in place, or copies if no slot is free for the next answer.

        An answer may still be on its way when the next one is made.
        """
        buffers = self._slots[slot].get(locations)
        if not any(self._is_free(other) for other in range(_SLOTS) if other != slot):
            return {key: flat.copy() for key, flat in buffers.items()}
        self._lent[slot] = [weakref.ref(flat) for flat in buffers.values()]
        return buffers

    def _is_free(self, slot: int) -> bool:
        return not any(lent() is not None for lent in self._lent[slot])

    def _wait(self, stop: Callable[[], bool]) -> Any:
        waited = 0.0
        while not self._channel.poll(_POLL):
            if not stop():
                continue
            if waited == 0:
                self._channel.send(STOP)
            waited += _POLL
            if waited > GRACE:
                self._end()
                self._start()
                raise Stopped
        return self._channel.recv()

    def _end(self) -> str:
        """Ends the process and returns its signal or exit code, in words."""
        self._channel.close()
        for memory in (self._memory, *self._slots):
            memory.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        self._process.kill()
        code = self._process.wait()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
