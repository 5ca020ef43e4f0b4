"""How far a simulation is: bars on a terminal, a line a round elsewhere."""

import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from consortium.runs.base import View
from consortium.tasks.registry import text_of_task
from consortium.tasks.text import TaskText

_STAGES = {
    "train": "trains",
    "validate": "scores the model: patient",
    "again": "trains again, to compare",
    "local": "trains alone",
}


class RunProgress:
    """Shows a running simulation; a context manager.

    Args:
        console: where to; stderr by default.
    """

    def __init__(self, console: Console | None = None):
        self._console = console or Console(stderr=True, highlight=False)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[told]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._rounds_told: int | None = None
        self._alone_told = self._again_told = False
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
        """Takes a look at the simulation."""
        # Not before: a thread of the bars' would be cut off in processes that the run forks.
        self._bars.start()
        if self._rounds_told is None:
            self._rounds_told = len(view.records)
            if view.records:
                self._say(f"going on after round {len(view.records)} of {view.settings.rounds}")
        left = _clock(self._clock.left(view))
        for record in view.records[self._rounds_told :]:
            self._say_round(record, view, left)
        self._rounds_told = len(view.records)
        stages = {said["stage"] for said in view.hospitals.values()}
        if "local" in stages and not self._alone_told:
            self._alone_told = True
            self._say("each hospital trains a model alone, for comparison" + (left and f", {left}"))
        if "again" in stages and not self._again_told:
            self._again_told = True
            self._say("the model is trained again without each hospital, to see what it learned")
        told = left if view.hospitals else "the hospitals start"
        self._bar("", "rounds", len(view.records), view.settings.rounds, told)
        for name, said in sorted(view.hospitals.items()):
            told = {"check": self._words(view).reads, **_STAGES}.get(said["stage"], said["stage"])
            if said["stage"] in ("train", "again", "local"):
                told = f"{told}, round {said['round'] + 1}, step"
            told = f"{told} {said['step']} of {said['steps']}"
            self._bar(name, name, said["step"], max(1, said["steps"]), told)

    def _words(self, view: View) -> TaskText:
        return text_of_task(view.settings.task)

    def _bar(self, key: str, title: str, done: int, total: int, told: str) -> None:
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(title, total=total, told=told)
        self._bars.update(self._tasks[key], completed=done, total=total, told=told)

    def _say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)

    def _say_round(self, record: dict[str, Any], view: View, left: str) -> None:
        answered, asked = record["answered"], record["asked"]
        parts = [f"round {record['round'] + 1} of {view.settings.rounds}"]
        parts.append(f"{len(answered)} of {len(asked)} hospitals")
        if record["score"] is not None:
            parts.append(f"{self._words(view).headline} before it {record['score']:.3f}")
        missing = sorted(set(asked) - set(answered))
        if missing:
            parts.append(f"without {', '.join(missing)}")
        self._say(", ".join([*parts, left] if left else parts))


class _TimeLeft:
    """Estimates the time left from the slowest hospital's pace since the first look."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None
        self._done: dict[str, float] = {}

    def left(self, view: View) -> float | None:
        """Seconds, or None while too little is known."""
        rounds = view.settings.rounds
        for name, said in view.hospitals.items():
            if said["stage"] in ("train", "local"):
                step = said["step"] / max(1, said["steps"])
                self._done[name] = said["round"] + step + rounds * (said["stage"] == "local")
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
    """The console that progress goes to."""
    return Console(file=sys.stderr, highlight=False)
