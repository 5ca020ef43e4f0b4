"""`scripts/bench NAME`: one benchmark, its table and its JSON.

It ends with 0, with 1 where a target is missed, with 2 for a wrong name or option, and with 4 where
the machine or FLARE did not let it be measured.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from scripts.benchmarks import round as round_benchmark
from scripts.benchmarks import training
from scripts.benchmarks.report import Row, describe_machine, publish, without_claims

from consortium.cli.run import DebugOption, run_app
from consortium.errors import UsageError

BENCHMARKS: dict[str, Callable[[bool], list[Row]]] = {
    "round": round_benchmark.measure,
    "training": training.measure,
}

app = typer.Typer(name="scripts/bench", add_completion=False)


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(BENCHMARKS)}.")],
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny, to see that it works; claims nothing.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="Where to write the rows as JSON.")] = None,
    debug: DebugOption = False,
) -> None:
    """Run a benchmark; the value of a row is a median, its spread the quartiles."""
    if name not in BENCHMARKS:
        known = " or ".join(BENCHMARKS)
        raise UsageError("unknown-benchmark", "there is no such benchmark", name, f"name {known}")
    machine = describe_machine()
    rows = BENCHMARKS[name](quick)
    publish(name, machine, without_claims(rows) if quick else rows, json)


if __name__ == "__main__":
    run_app(app)
