"""Ends the processes of a run when the process that started it ends, however it does.

    python -P -m consortium.runs.process_guard MARK

A process that is killed cannot end those that it has started, and FLARE's lead sessions of their
own. So a second process waits until its standard input, which the first one holds open, is closed.
It then kills every process whose environment has the mark, which processes inherit.
"""

import contextlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping

import psutil

MARK = "CONSORTIUM_RUN_MARK"
"""Environment variable that marks the processes of a run."""
_POLL = 0.1  # seconds between two scans


@contextlib.contextmanager
def guarded(environment: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    """Guards the processes of a run for as long as the context is open.

    Args:
        environment: of the processes.

    Yields:
        The environment with the mark. What has it is killed when this process or the context ends.
    """
    mark = secrets.token_hex(16)
    ours, theirs = os.pipe()
    try:
        guard = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, mark],
            stdin=ours,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
    except BaseException:
        os.close(theirs)
        raise
    finally:
        os.close(ours)
    try:
        yield {**environment, MARK: mark}
    finally:
        os.close(theirs)
        guard.wait()


def _kill_marked(mark: str) -> bool:
    """Kills the processes with a mark; returns whether there were any."""
    killed = False
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                process.kill()
                killed = True
    return killed


def main() -> None:
    """Waits for the end of standard input, then kills what has the mark until nothing has it."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    # Twice without any: a process may have been starting another one.
    quiet = 0
    while quiet < 2:
        quiet = 0 if _kill_marked(sys.argv[1]) else quiet + 1
        time.sleep(_POLL)


if __name__ == "__main__":
    main()
