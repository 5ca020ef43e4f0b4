"""Shows the progress of a run: bars on a terminal, elsewhere one line for each round."""

import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from consortium.cli.terminal import terminal
from consortium.core.printable import printable
from consortium.runs.base import View
from consortium.tasks.registry import text_of_task
from consortium.tasks.text import TaskText

_STAGES = {
    "train": "trains",
    "validate": "scores the model: patient",
    "again": "trains again, for comparison",
    "local": "trains a local model",
}


class RunProgress:
    """Shows the progress of a run; a context manager.

    Args:
        console: to print to; stderr by default.
    """

    def __init__(self, console: Console | None = None):
        self._console = console or terminal(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[message]}", markup=False),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._rounds_shown: int | None = None
        self._local_announced = self._again_announced = False
        self._clock = _TimeLeft()

    def __enter__(self) -> "RunProgress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def __call__(self, view: View) -> None:
        """Shows a state of the run."""
        # Not earlier: the thread that draws the bars would not survive in processes that the run
        # forks.
        self._bars.start()
        if self._rounds_shown is None:
            self._rounds_shown = len(view.records)
            if view.records:
                self._print(f"going on after round {len(view.records)} of {view.settings.rounds}")
        left = _clock(self._clock.left(view))
        for record in view.records[self._rounds_shown :]:
            self._print_round(record, view, left)
        self._rounds_shown = len(view.records)
        stages = {progress["stage"] for progress in view.hospitals.values()}
        if "local" in stages and not self._local_announced:
            self._local_announced = True
            self._print(
                "each hospital trains a local model, for comparison" + (left and f", {left}")
            )
        if "again" in stages and not self._again_announced:
            self._again_announced = True
            self._print("the model is trained again without each hospital, for comparison")
        message = left if view.hospitals else "the hospitals start"
        self._bar("", "rounds", len(view.records), view.settings.rounds, message)
        for name, progress in sorted(view.hospitals.items()):
            stage, step, steps = progress["stage"], progress["step"], progress["steps"]
            message = {"check": self._text(view).reads, **_STAGES}.get(stage, stage)
            if stage in ("train", "again", "local"):
                message = f"{message}, round {progress['round'] + 1}, step"
            self._bar(name, name, step, max(1, steps), f"{message} {step} of {steps}")

    def _text(self, view: View) -> TaskText:
        return text_of_task(view.settings.task)

    def _bar(self, key: str, title: str, done: int, total: int, message: str) -> None:
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(printable(title), total=total, message=message)
        self._bars.update(self._tasks[key], completed=done, total=total, message=message)

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)

    def _print_round(self, record: dict[str, Any], view: View, left: str) -> None:
        answered, asked = record["answered"], record["asked"]
        parts = [f"round {record['round'] + 1} of {view.settings.rounds}"]
        parts.append(f"{len(answered)} of {len(asked)} hospitals")
        if record["score"] is not None:
            parts.append(f"{self._text(view).headline} before it {record['score']:.3f}")
        missing = sorted(set(asked) - set(answered))
        if missing:
            parts.append(f"without {', '.join(missing)}")
        self._print(", ".join([*parts, left] if left else parts))


class _TimeLeft:
    """Estimates the time left from the slowest hospital's speed since the first estimate."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None
        self._done: dict[str, float] = {}

    def left(self, view: View) -> float | None:
        """Returns seconds, or None while too little is known."""
        rounds = view.settings.rounds
        for name, progress in view.hospitals.items():
            if progress["stage"] in ("train", "local"):
                step = progress["step"] / max(1, progress["steps"])
                is_local = progress["stage"] == "local"
                self._done[name] = progress["round"] + step + rounds * is_local
        if not self._done or len(self._done) < len(view.hospitals):
            return None
        slowest, now = min(self._done.values()), time.monotonic()
        if self._first is None:
            self._first = (now, slowest)
        moved = slowest - self._first[1]
        if moved < 0.5:
            return None
        total = rounds * (2 if view.settings.baseline else 1)
        return float((now - self._first[0]) / moved * (total - slowest))


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"about {minutes}:{rest:02d} left"


def stderr_console() -> Console:
    """Returns the console that progress is printed to."""
    return terminal(file=sys.stderr)
