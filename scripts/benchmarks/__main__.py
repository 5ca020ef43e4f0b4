"""`scripts/bench NAME`: runs one benchmark; prints its table and writes its JSON or records.

Exit code 0: done. 1: a target was missed. 2: wrong name or option. 4: the machine or FLARE failed.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from scripts.benchmarks.report import Row, describe_machine, publish, without_claims

from consortium.cli.run import DebugOption, run_app
from consortium.core.errors import UsageError


def _of(module: str, function: str) -> Callable[..., Any]:
    """Returns a benchmark's function; its module is imported only when it is called."""

    def call(*arguments: Any) -> Any:
        return getattr(import_module(f"scripts.benchmarks.{module}"), function)(*arguments)

    return call


BENCHMARKS: dict[str, Callable[[bool], list[Row]]] = {
    name: _of(name, "measure")
    for name in (
        "aggregation",
        "cut",
        "gate",
        "large",
        "probe",
        "provisioning",
        "robust",
        "round",
        "scale",
        "training",
    )
}

PROVISIONED: dict[str, Callable[[bool], list[Row]]] = {"round": _of("round", "measure_provisioned")}

# These take hours: each part is recorded when it is done, and the next run continues there.
TABLES: dict[str, Callable[[bool, Path | None, bool], None]] = {
    name: _of(name, "run") for name in ("accuracy", "covid", "variants")
}

SCORES: dict[str, Callable[[bool, Path | None], None]] = {
    name: _of(name, "run") for name in ("heart", "hippocampus")
}


def names() -> list[str]:
    """Returns the names of all benchmarks."""
    return sorted([*BENCHMARKS, *TABLES, *SCORES, "chaos"])


app = typer.Typer(name="scripts/bench", add_completion=False)


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(names())}.")],
    quick: Annotated[
        bool, typer.Option("--quick", help="A tiny run to check that it works; no targets.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="JSON file to write the table to.")] = None,
    records: Annotated[
        Path | None,
        typer.Option(help="Records file of accuracy, covid or variants, instead of the job's own."),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Measure nothing; show the records.")
    ] = False,
    provisioned: Annotated[
        bool,
        typer.Option("--provisioned", help="round: use real federations, not FLARE's simulator."),
    ] = False,
    trials: Annotated[
        int, typer.Option(help="chaos: number of runs, with five kills each.", min=1)
    ] = 10,
    seed: Annotated[int, typer.Option(help="chaos: seed of the kinds and times of kills.")] = 0,
    debug: DebugOption = False,
) -> None:
    """Run a benchmark.

    For times, a row's value is the median and its spread the quartiles. For a share of runs, the
    spread is its exact 95 % interval. Accuracies that are on record are not measured again.
    """
    if name in TABLES and not provisioned:
        TABLES[name](quick, records, show)
        return
    if name in SCORES and not provisioned:
        SCORES[name](quick, json)
        return
    measured = PROVISIONED if provisioned else BENCHMARKS
    if name == "chaos" and not provisioned:
        measured = {"chaos": lambda quick: _of("chaos", "measure")(quick, trials, seed)}
    if name not in measured:
        known = " or ".join(sorted(measured if provisioned else names()))
        raise UsageError("unknown-benchmark", "there is no such benchmark", name, f"name {known}")
    machine = describe_machine()
    rows = measured[name](quick)
    publish(name, machine, without_claims(rows) if quick else rows, json)


if __name__ == "__main__":
    run_app(app)
