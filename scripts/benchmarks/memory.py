"""Measures the peak memory of a federation's processes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_EVERY = 0.2  # seconds
_SERVER = ("nvflare.private.fed.app.server.runner_process", "simulator.simulator")
_SITE = ("nvflare.private.fed.app.client.worker_process", "simulator.simulator_worker")


class Peaks:
    """The peak memory so far, in MB.

    Attributes:
        server: of the process of the orchestrator's job.
        site: of the largest hospital's job process and its child processes.
    """

    def __init__(self) -> None:
        self.server = self.site = 0.0

    def look(self, place: Path) -> None:
        """Measures the processes whose command line names a folder; updates the peaks."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                words = process.cmdline()
                if not any(str(place) in word for word in words):
                    continue
                if any(word.endswith(_SERVER) for word in words):
                    self.server = max(self.server, _memory(process))
                elif any(word.endswith(_SITE) for word in words):
                    family = [process, *process.children(recursive=True)]
                    self.site = max(self.site, sum(_memory(each) for each in family))


def _memory(process: psutil.Process) -> float:
    """Returns the proportional set size in MB: pages shared by several processes count once."""
    with suppress(psutil.Error):
        return float(process.memory_full_info().pss) / 1e6
    return 0.0


@contextmanager
def watched(place: Path) -> Iterator[Peaks]:
    """Measures the processes of a folder until the context ends."""
    peaks, over = Peaks(), threading.Event()

    def look() -> None:
        while not over.wait(_EVERY):
            peaks.look(place)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield peaks
    finally:
        over.set()
        watcher.join()
