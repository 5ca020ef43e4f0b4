"""How much memory the processes of a federation's parts hold at most."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_EVERY = 0.2  # seconds
_SERVER = ("nvflare.private.fed.app.server.runner_process", "simulator.simulator")
_SITE = ("nvflare.private.fed.app.client.worker_process", "simulator.simulator_worker")


class Peaks:
    """The largest sums so far, in MB.

    Attributes:
        server: of the process that the orchestrator's job runs in.
        site: of the hospital's job process and what it started, of the largest hospital.
    """

    def __init__(self) -> None:
        self.server = self.site = 0.0

    def look(self, place: Path) -> None:
        """Measures the processes whose command line names a folder."""
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
    """Proportional set size: what several processes share counts once among them."""
    with suppress(psutil.Error):
        return float(process.memory_full_info().pss) / 1e6
    return 0.0


@contextmanager
def watched(place: Path) -> Iterator[Peaks]:
    """Looks at the processes of a place for as long as this lasts."""
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
