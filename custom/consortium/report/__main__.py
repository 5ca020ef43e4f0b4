"""Renders the page and the curves of a run from `rounds.jsonl` and `result.json` in its folder.

    python -m consortium.report RESULTS
    python -m consortium.report --follow RESULTS

With `--follow`, the first line of standard input is the job's settings as JSON. The curves then
grow with `rounds.jsonl` during the run, and the line `finish` renders the page. If standard input
ends without it, the run was killed and nothing more is written. This process loads neither torch
nor MONAI, and no model.
"""

import argparse
import select
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from consortium.core.files import write_text
from consortium.core.json_files import parse_json, read_json_object
from consortium.report.curves import CurveWriter
from consortium.report.page import render_report
from consortium.settings.base import Settings
from consortium.tasks.registry import parse_settings

_POLL = 0.5  # seconds between two looks for new rounds


def read_rounds(results: Path) -> list[dict[str, Any]]:
    """Reads the complete lines of `rounds.jsonl`; the last line may be only partly written."""
    try:
        text = (results / "rounds.jsonl").read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [parse_json(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def read_result(results: Path) -> dict[str, Any]:
    """Reads `result.json`."""
    return read_json_object(results / "result.json")


def render_run(results: Path) -> None:
    """Renders the page and the curves of a finished run; replaces its former curves."""
    result = read_result(results)
    curves = _Curves(results, parse_settings(result["settings"], "result.json"))
    curves.update()
    curves.finish(result)
    curves.close()
    _write_page(results, result)


def follow_run(results: Path, settings: Settings) -> None:
    """Updates the curves until the run ends, then renders the page.

    Args:
        results: the run's folder.
        settings: the job's settings.
    """
    curves = {results: _Curves(results, settings)}
    command = ""
    while True:
        # A run may train one more model without each hospital, each in a folder of its own.
        for folder in sorted(results.glob("without/*/")):
            if folder not in curves:
                curves[folder] = _Curves(folder, settings)
        for folder_curves in curves.values():
            folder_curves.update()
        if command:
            break
        if select.select([sys.stdin], [], [], _POLL)[0]:
            command = sys.stdin.readline().strip() or "end"
    if command == "finish":
        result = read_result(results)
        curves[results].finish(result)
        _write_page(results, result)
    for folder_curves in curves.values():
        folder_curves.close()


class _Curves:
    """The curves of one folder."""

    def __init__(self, results: Path, settings: Settings):
        self._rounds = results / "rounds.jsonl"
        self._writer = CurveWriter(results / "tensorboard", (), settings)
        self._size, self._written = -1, 0

    def update(self) -> None:
        """Adds the rounds that were closed since the last call."""
        size = self._rounds.stat().st_size if self._rounds.is_file() else -1
        if size == self._size:
            return
        self._size = size
        records = read_rounds(self._rounds.parent)
        for record in records[self._written :]:
            self._writer.round(record)
        self._written = len(records)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Adds the scores of the final model."""
        self._writer.finish(result, result["final"])

    def close(self) -> None:
        """Closes the files."""
        self._writer.close()


def _write_page(results: Path, result: Mapping[str, Any]) -> None:
    page = render_report(result, read_rounds(results), final=result["final"])
    write_text(results / "report.html", page)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m consortium.report", description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument(
        "--follow", action="store_true", help="Follow a run that is still going on."
    )
    arguments = parser.parse_args()
    # Ctrl-C is meant for the run, which then ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if arguments.follow:
        settings = parse_settings(parse_json(sys.stdin.readline()), "standard input")
        follow_run(arguments.results, settings)
    else:
        render_run(arguments.results)


if __name__ == "__main__":
    main()
