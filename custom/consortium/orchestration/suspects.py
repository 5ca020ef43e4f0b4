"""Names the hospitals whose answers are being read, in a file that outlives a crash.

If reading an answer ends the orchestrator's process, the file says whose answer it was, and the run
goes on as after any other job that a hospital broke; see `consortium.orchestration.recovery`.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_FILE = "reading.txt"


class AnswersBeingRead:
    """The hospitals whose answers are being read now.

    Args:
        folder: the folder of the run's checkpoints; what it says of an earlier process is removed.
    """

    def __init__(self, folder: Path):
        self._path = folder / _FILE
        self._names: list[str] = []
        self._decoded = ""
        self._lock = threading.Lock()
        self._write()

    @contextmanager
    def reading(self, hospital: str) -> Iterator[None]:
        """Names a hospital while one of its answers is read."""
        with self._lock:
            self._names.append(hospital)
            self._write()
        try:
            yield
        finally:
            with self._lock:
                self._names.remove(hospital)
                self._write()

    @contextmanager
    def decoding(self, hospital: str) -> Iterator[None]:
        """Names the one hospital whose answer is decoded now, while it is read."""
        with self._lock:
            self._decoded = hospital
            self._write()
        try:
            yield
        finally:
            with self._lock:
                self._decoded = ""
                self._write()

    def _write(self) -> None:
        with suppress(OSError):  # a full disk stops the run at its next checkpoint, with a reason
            if self._names:
                lines = [self._decoded, *self._names]
                self._path.write_text("\n".join(lines), encoding="utf-8")
            else:
                self._path.unlink(missing_ok=True)


def find_suspect(folder: Path) -> str:
    """Returns the hospital whose answer may have ended a process, or "".

    It is the one whose answer was being decoded, or the only one whose answer was being read.

    Args:
        folder: the folder of the run's checkpoints.
    """
    with suppress(OSError, UnicodeDecodeError):
        decoded, *names = (folder / _FILE).read_text(encoding="utf-8").split("\n")
        if decoded or len(set(names)) == 1:
            return decoded or names[0]
    return ""
