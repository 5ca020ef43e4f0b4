"""The table at the end of a run."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from consortium.report.attendance import describe_flagged
from consortium.report.confounding import describe_verdict
from consortium.report.figures import figures_of, value_of
from consortium.settings.base import Settings
from consortium.tasks.registry import parse_settings, text_of_task

LEFT_BEHIND = {
    "result.json": "result",
    "rounds.jsonl": "rounds",
    "report.html": "report",
    "model": "model (a MONAI bundle)",
    "tensorboard": "curves (tensorboard --logdir)",
}


def print_outcome(result: dict[str, Any], workspace: Path) -> None:
    """Prints per hospital its cases, the score of a model trained alone, of the shared model and,
    where there is one, of the pooled model, and where everything is.
    """  # noqa: D205
    console = Console(highlight=False)
    settings = parse_settings(result["settings"], "result.json")
    words = text_of_task(settings.task)
    title = words.headline[0].upper() + words.headline[1:]
    table = Table(title=f"{title} on each hospital's own validation patients", title_justify="left")
    table.add_column("hospital")
    pooled = any(row.get("centralised") for row in result["hospitals"])
    for title in ("training", "validation", "local", "federated", *["centralised"] * pooled):
        table.add_column(title, justify="right")
    for row in result["hospitals"]:
        cases = row["cases"]
        table.add_row(
            row["name"],
            _text(cases["training"]),
            _text(cases["validation"]),
            score_text(row["local"], settings),
            score_text(row["federated"], settings),
            *[score_text(row.get("centralised"), settings)] * pooled,
        )
    console.print(table)
    if "confounding" in result:
        told = describe_verdict(result["confounding"])
        console.print(f"disease or hospital: {told}", soft_wrap=True)
    for one in result.get("flagged", []):
        console.print(f"stands out: {describe_flagged(one)}", soft_wrap=True)
    for name, meaning in LEFT_BEHIND.items():
        if (workspace / name).exists():
            console.print(f"{meaning}: {workspace / name}", soft_wrap=True)


def score_text(score: dict[str, Any] | None, settings: Settings) -> str:
    """A score for a table: its figures, or why there is none.

    Where there are several figures of each class, the headline and what is of no class.
    """
    if score is None:
        return "-"
    if score["withheld"] is not None:
        return "withheld"
    figures, metrics = figures_of(score), settings.scored.metrics
    values = {one.name: figures.get(one.name) for one in metrics}
    if any(one.of and not one.by_structure for one in metrics):
        headline = text_of_task(settings.task).headline
        others = {one.name: figures.get(one.name) for one in metrics if not one.of}
        values = {headline: value_of(score, settings.scored), **others}
    if len(values) == 1:
        return _figure(next(iter(values.values())))
    return ", ".join(f"{name} {_figure(value)}" for name, value in values.items())


def _figure(value: float | None) -> str:
    return "not estimable" if value is None else f"{value:.3f}"


def _text(value: int | None) -> str:
    return "-" if value is None else str(value)
