"""Prints the table at the end of a run."""

from pathlib import Path
from typing import Any

from rich.table import Table

from consortium.cli.terminal import terminal
from consortium.report.attendance import describe_flagged
from consortium.report.confounding import describe_verdict
from consortium.report.figures import figures_of, value_of
from consortium.settings.base import Settings
from consortium.tasks.registry import parse_settings, text_of_task

_RESULT_FILES = {
    "result.json": "result",
    "rounds.jsonl": "rounds",
    "report.html": "report",
    "model": "model (a MONAI bundle)",
    "tensorboard": "curves (tensorboard --logdir)",
}


def print_result(result: dict[str, Any], workspace: Path) -> None:
    """Prints each hospital's cases and the scores of each model, and the paths of the results.

    The models are the local, the federated and, if there is one, the centralised model.
    """
    console = terminal()
    settings = parse_settings(result["settings"], "result.json")
    task_text = text_of_task(settings.task)
    title = task_text.headline[0].upper() + task_text.headline[1:]
    table = Table(title=f"{title} on each hospital's own validation patients", title_justify="left")
    table.add_column("hospital")
    centralised = any(row.get("centralised") for row in result["hospitals"])
    for title in ("training", "validation", "local", "federated", *["centralised"] * centralised):
        table.add_column(title, justify="right")
    for row in result["hospitals"]:
        cases = row["cases"]
        table.add_row(
            row["name"],
            _text(cases["training"]),
            _text(cases["validation"]),
            score_text(row["local"], settings),
            score_text(row["federated"], settings),
            *[score_text(row.get("centralised"), settings)] * centralised,
        )
    console.print(table)
    if "confounding" in result:
        verdict = describe_verdict(result["confounding"])
        console.print(f"confounding probe: {verdict}", soft_wrap=True)
    for hospital in result.get("flagged", []):
        console.print(f"flagged: {describe_flagged(hospital)}", soft_wrap=True)
    for name, meaning in _RESULT_FILES.items():
        if (workspace / name).exists():
            console.print(f"{meaning}: {workspace / name}", soft_wrap=True)


def score_text(score: dict[str, Any] | None, settings: Settings) -> str:
    """Formats a score for a table: its figures, or why there is none.

    If several metrics have a figure for each class, only the headline and the metrics without
    classes are shown.
    """
    if score is None:
        return "-"
    if score["withheld"] is not None:
        return "withheld"
    figures, metrics = figures_of(score), settings.scored.metrics
    values = {metric.name: figures.get(metric.name) for metric in metrics}
    if any(metric.of and not metric.by_structure for metric in metrics):
        headline = text_of_task(settings.task).headline
        others = {metric.name: figures.get(metric.name) for metric in metrics if not metric.of}
        values = {headline: value_of(score, settings.scored), **others}
    if len(values) == 1:
        return _figure(next(iter(values.values())))
    return ", ".join(f"{name} {_figure(value)}" for name, value in values.items())


def _figure(value: float | None) -> str:
    return "not estimable" if value is None else f"{value:.3f}"


def _text(value: int | None) -> str:
    return "-" if value is None else str(value)
