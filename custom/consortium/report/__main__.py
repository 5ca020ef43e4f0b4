"""Makes the page and the curves of a run, from `rounds.jsonl` and `result.json` in its folder.

    python -m consortium.report RESULTS
    python -m consortium.report --follow RESULTS

With `--follow`, the first line of standard input is the job's settings as JSON, and the curves grow
with `rounds.jsonl` while the run goes on. The page is made when the line `finish` comes. Where
standard input ends without it, the run was killed and nothing more is written. Neither torch nor
MONAI is loaded here, and no model.
"""

import argparse
import json
import select
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from consortium.core.files import write_text
from consortium.report.curves import CurveWriter
from consortium.report.page import render_report
from consortium.settings.base import Settings
from consortium.tasks.registry import parse_settings

_POLL = 0.5  # seconds between two looks for new rounds


def read_rounds(results: Path) -> list[dict[str, Any]]:
    """The whole lines of `rounds.jsonl`; the last one may be on its way."""
    try:
        text = (results / "rounds.jsonl").read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def read_result(results: Path) -> dict[str, Any]:
    """The content of `result.json`."""
    result: dict[str, Any] = json.loads((results / "result.json").read_text(encoding="utf-8"))
    return result


def render_run(results: Path) -> None:
    """Makes the page of a run that has ended, and its curves anew."""
    result = read_result(results)
    curves = _Curves(results, parse_settings(result["settings"], "result.json"))
    curves.update()
    curves.finish(result)
    curves.close()
    _write_page(results, result)


def follow_run(results: Path, settings: Settings) -> None:
    """Keeps the curves up to date until the run ends, then makes the page.

    Args:
        results: the run's folder.
        settings: of its job.
    """
    curves = {results: _Curves(results, settings)}
    word = ""
    while True:
        # The model may be trained again without each hospital, each time in a folder of its own.
        for folder in sorted(results.glob("without/*/")):
            if folder not in curves:
                curves[folder] = _Curves(folder, settings)
        for each in curves.values():
            each.update()
        if word:
            break
        if select.select([sys.stdin], [], [], _POLL)[0]:
            word = sys.stdin.readline().strip() or "end"
    if word == "finish":
        result = read_result(results)
        curves[results].finish(result)
        _write_page(results, result)
    for each in curves.values():
        each.close()


class _Curves:
    """The curves of one folder."""

    def __init__(self, results: Path, settings: Settings):
        self._rounds = results / "rounds.jsonl"
        self._writer = CurveWriter(results / "tensorboard", (), settings)
        self._size, self._written = -1, 0

    def update(self) -> None:
        """Adds the rounds that were closed since the last time."""
        size = self._rounds.stat().st_size if self._rounds.is_file() else -1
        if size == self._size:
            return
        self._size = size
        records = read_rounds(self._rounds.parent)
        for record in records[self._written :]:
            self._writer.round(record)
        self._written = len(records)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Adds what is known at the end."""
        self._writer.finish(result, result["final"])

    def close(self) -> None:
        """Ends the files."""
        self._writer.close()


def _write_page(results: Path, result: Mapping[str, Any]) -> None:
    page = render_report(result, read_rounds(results), final=result["final"])
    write_text(results / "report.html", page)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m consortium.report", description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--follow", action="store_true", help="The run is going on.")
    arguments = parser.parse_args()
    # A person's Ctrl-C is for the run, which then ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if arguments.follow:
        settings = parse_settings(json.loads(sys.stdin.readline()), "standard input")
        follow_run(arguments.results, settings)
    else:
        render_run(arguments.results)


if __name__ == "__main__":
    main()
