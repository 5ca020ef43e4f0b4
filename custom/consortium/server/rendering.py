"""Starts the process that renders the page and the curves of a results folder.

`python -m consortium.report` reads `rounds.jsonl` and `result.json` and holds no models; see
`consortium.report.__main__`. If it fails, the run goes on without a page and gets a note.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from consortium.settings.base import Settings

_TIMEOUT = 120.0  # seconds that rendering may take after the run has ended


class Renderer:
    """Updates the curves of a run in a process of its own, and renders the page at the end.

    The process ends by itself when this one does.

    Args:
        results: the run's folder.
        settings: of its job.
    """

    def __init__(self, results: Path, settings: Settings):
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "consortium.report", "--follow", str(results)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=_environment(),
            text=True,
        )
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # `finish` returns what went wrong
            self._process.stdin.write(settings.model_dump_json(by_alias=True) + "\n")
            self._process.stdin.flush()

    def finish(self) -> str:
        """Waits for the page and the last points of the curves.

        Returns:
            What went wrong, in one line, or "".
        """
        return _outcome(self._process, "finish\n")

    def stop(self) -> None:
        """Ends the process without a page; safe to call twice."""
        self._process.kill()
        self._process.communicate()


def render(results: Path) -> str:
    """Renders the page and the curves of a run that has ended; see `Renderer.finish`."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "consortium.report", str(results)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=_environment(),
        text=True,
    )
    return _outcome(process)


def _environment() -> dict[str, str]:
    # A job may bring the package with it.
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _outcome(process: subprocess.Popen[str], command: str | None = None) -> str:
    try:
        _, errors = process.communicate(command, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"the page could not be made within {_TIMEOUT:.0f} seconds"
    if process.returncode == 0:
        return ""
    last = (errors or "").strip().splitlines()[-1:]
    reason = last[0] if last else f"exit code {process.returncode}"
    return f"the page could not be made: {reason}"
