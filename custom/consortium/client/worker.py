"""The process in which a hospital trains, started by `consortium.client.process`.

    python -P -m consortium.client.worker --site NAME --state FOLDER CHANNEL MEMORY SLOT ...

CHANNEL and the arguments after it are inherited file descriptors: the channel for requests, memory
for their models, and memories for answers. A request names the one to use for its answer.
Invariants: the process ends when its parent does, however the parent ends. It sends back only an
answer or a failure's code, and writes the text of an error to the hospital's own `errors.log`.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from pkgutil import resolve_name
from queue import SimpleQueue
from typing import Any

import torch

from consortium.client.shared_memory import STOP, SharedBuffers
from consortium.client.trainer import Aborted, LocalTrainer, Progress
from consortium.core.errors import failure_of
from consortium.core.files import write_text
from consortium.core.site_policy import Site, note_error
from consortium.protocol.codec import unpack
from consortium.protocol.update import Update, update_to_wire
from consortium.settings.base import Settings

_INTERVAL = 0.5  # seconds between two writes of the progress file


class _Worker:
    """Answers requests, one after the other.

    Args:
        channel: to the parent process.
        memory: shared with the parent process, for models.
        slots: shared with the parent process, for answers.
    """

    def __init__(self, channel: Connection, memory: SharedBuffers, slots: list[SharedBuffers]):
        self._channel, self._memory, self._slots = channel, memory, slots
        self._slot = slots[0]
        self._requests: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
        self._stop = threading.Event()
        self._written = 0.0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                message = self._channel.recv()
            except (EOFError, OSError):
                os._exit(0)  # the parent is gone, and nobody waits for the answer
            if message == STOP:
                self._stop.set()
            else:
                self._stop.clear()
                self._requests.put(message)

    def work(self) -> None:
        """Opens the trainer at the first request, then answers requests."""
        class_path, site, settings, job = self._requests.get()
        self._site: Site = site
        self._job: int = job
        trainer: LocalTrainer | None = None
        while True:
            request = self._requests.get()
            try:
                if trainer is None:
                    trainer = self._open(class_path, settings)
                answer = self._answer(trainer, *request)
            except Aborted:
                answer = ("aborted",)
            except Exception as error:  # every request is answered
                note_error(site.state, error)
                answer = ("failed", failure_of(error, site.name).code)
            self._channel.send(answer)

    def _open(self, class_path: str, settings: Settings) -> LocalTrainer:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        opened: LocalTrainer = resolve_name(class_path)(
            self._site,
            settings,
            device=device,
            report=self._report,
            make=lambda sizes: self._slot.make(sizes),
        )
        return opened

    def _answer(
        self,
        trainer: LocalTrainer,
        method: str,
        arguments: dict[str, Any],
        contents: Any,
        locations: Any,
        slot: int,
    ) -> tuple[Any, ...]:
        self._slot = self._slots[slot]
        model = unpack(contents, self._memory.get(locations))
        result = getattr(trainer, method)(model, **arguments)
        if isinstance(result, Update):
            _, plain = update_to_wire(result, self._slot.make)
            return ("update", plain, self._slot.locations)
        return ("metrics", result.model_dump())

    def _report(self, progress: Progress) -> None:
        if self._stop.is_set():
            raise Aborted
        now = time.monotonic()
        if now - self._written < _INTERVAL and progress.step < progress.steps:
            return
        self._written = now
        write_progress(self._site.state / "progress.json", progress, self._job)


def write_progress(path: Path, progress: Progress, job: int) -> None:
    """Writes a hospital's progress, for the people there.

    Args:
        path: of the file.
        progress: to write.
        job: id of the job's process at the hospital, which restarts this process if it dies.
    """
    write_text(
        path,
        json.dumps(
            {
                "stage": progress.stage,
                "round": progress.round,
                "rounds": progress.rounds,
                "step": progress.step,
                "steps": progress.steps,
                "process": job,
            }
        ),
    )


def run_worker(channel: int, *files: int) -> None:
    """Answers requests until the parent process ends.

    Args:
        channel: file descriptor of the channel for requests.
        files: file descriptors of the memory for models, then of those for answers.
    """
    # Ctrl-C is meant for the parent process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # If memory runs out the kernel ends this process first, and the job goes on.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
    memory, *slots = map(SharedBuffers, files)
    _Worker(Connection(channel), memory, slots).work()


def main() -> None:
    """Reads the file descriptors from the command line; see `run_worker`."""
    run_worker(*map(int, sys.argv[sys.argv.index("--state") + 2 :]))


if __name__ == "__main__":
    main()
