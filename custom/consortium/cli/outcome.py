"""The table at the end of a run."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from consortium.report.attendance import tell_conspicuous

LEFT_BEHIND = {
    "result.json": "result",
    "rounds.jsonl": "rounds",
    "report.html": "report",
    "model": "model (a MONAI bundle)",
    "tensorboard": "curves (tensorboard --logdir)",
}


def print_outcome(result: dict[str, Any], workspace: Path) -> None:
    """Prints per hospital its cases, the Dice of a model trained alone, of the shared model and,
    where there is one, of the pooled model, and where everything is.
    """  # noqa: D205
    console = Console(highlight=False)
    table = Table(title="Dice on each hospital's own validation patients", title_justify="left")
    table.add_column("hospital")
    pooled = any(row.get("pooled") for row in result["hospitals"])
    for title in ("training", "validation", "alone", "shared", *["pooled"] * pooled):
        table.add_column(title, justify="right")
    for row in result["hospitals"]:
        cases = row["cases"]
        table.add_row(
            row["name"],
            _text(cases["training"]),
            _text(cases["validation"]),
            dice_text(row["alone"]),
            dice_text(row["shared"]),
            *[dice_text(row.get("pooled"))] * pooled,
        )
    console.print(table)
    for one in result.get("conspicuous", []):
        console.print(f"stands out: {tell_conspicuous(one)}", soft_wrap=True)
    for name, meaning in LEFT_BEHIND.items():
        if (workspace / name).exists():
            console.print(f"{meaning}: {workspace / name}", soft_wrap=True)


def dice_text(score: dict[str, Any] | None) -> str:
    """A score for a table: the Dice of each structure, or why there is none."""
    if score is None:
        return "-"
    if score["dice"] is None:
        return "withheld"
    values = score["dice"]
    if len(values) == 1:
        return f"{next(iter(values.values())):.3f}"
    return ", ".join(f"{name} {value:.3f}" for name, value in values.items())


def _text(value: int | None) -> str:
    return "-" if value is None else str(value)
