"""How far a simulation is: bars on a terminal, a line a round elsewhere."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from consortium.simulation import View

_STAGES = {"check": "reads its scans", "train": "trains", "validate": "validates", "alone": "alone"}


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
        self._rounds_told = 0
        self._clock = _TimeLeft()

    def __enter__(self) -> "RunProgress":
        self._bars.start()
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
        for record in view.records[self._rounds_told :]:
            self._tell_round(record, view)
        self._rounds_told = len(view.records)
        left = self._clock.left(view)
        self._bar("all", "all hospitals", len(view.records), view.rounds, _clock(left))
        for name, said in sorted(view.hospitals.items()):
            stage = _STAGES.get(said["stage"], said["stage"])
            told = f"{stage}, {said['step']} of {said['steps']}"
            if said["stage"] in ("train", "alone"):
                told = f"round {said['round'] + 1}, step {said['step']} of {said['steps']}"
                told = f"alone, {told}" if said["stage"] == "alone" else told
            self._bar(name, name, said["step"], max(1, said["steps"]), told)

    def _bar(self, key: str, title: str, done: int, total: int, told: str) -> None:
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(title, total=total, told=told)
        self._bars.update(self._tasks[key], completed=done, total=total, told=told)

    def _tell_round(self, record: dict[str, object], view: View) -> None:
        answered, asked = record["answered"], record["asked"]
        assert isinstance(answered, list)
        assert isinstance(asked, list)
        score = record["score"]
        parts = [f"round {int(str(record['round'])) + 1} of {view.rounds}"]
        parts.append(f"{len(answered)} of {len(asked)} hospitals")
        if isinstance(score, float):
            parts.append(f"Dice before it {score:.3f}")
        missing = sorted(set(asked) - set(answered))
        if missing:
            parts.append(f"without {', '.join(missing)}")
        left = _clock(self._clock.left(view))
        self._console.print(", ".join([*parts, left] if left else parts))


class _TimeLeft:
    """Estimates the time left from the slowest hospital's pace since the first look."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None

    def left(self, view: View) -> float | None:
        """Seconds, or None while too little is known."""
        done = [
            said["round"] + said["step"] / max(1, said["steps"])
            for said in view.hospitals.values()
            if said["stage"] == "train"
        ]
        if not done or len(done) < len(view.hospitals):
            return None
        slowest, now = min(done), time.monotonic()
        if self._first is None:
            self._first = (now, slowest)
        moved = slowest - self._first[1]
        if moved < 0.2:
            return None
        return float((now - self._first[0]) / moved * (view.rounds - slowest))


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"about {minutes}:{rest:02d} left"


def stderr_console() -> Console:
    """The console that progress goes to."""
    return Console(file=sys.stderr, highlight=False)
