"""`scripts/bench NAME`: one benchmark, its table and its JSON or records.

It ends with 0, with 1 where a target is missed, with 2 for a wrong name or option, and with 4 where
the machine or FLARE did not let it be measured.
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
    """A benchmark's function, whose module is imported when it is called."""

    def call(*arguments: Any) -> Any:
        return getattr(import_module(f"scripts.benchmarks.{module}"), function)(*arguments)

    return call


BENCHMARKS: dict[str, Callable[[bool], list[Row]]] = {
    name: _of(name, "measure")
    for name in (
        "aggregation",
        "cut",
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

# Hours long: parts are on record when they are done, and a run goes on where one ended.
TABLES: dict[str, Callable[[bool, Path | None, bool], None]] = {
    name: _of(name, "run") for name in ("accuracy", "covid", "variants")
}

SCORES: dict[str, Callable[[bool, Path | None], None]] = {
    name: _of(name, "run") for name in ("heart", "hippocampus")
}


def names() -> list[str]:
    """Of all benchmarks."""
    return sorted([*BENCHMARKS, *TABLES, *SCORES, "chaos"])


app = typer.Typer(name="scripts/bench", add_completion=False)


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(names())}.")],
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny, to see that it works; claims nothing.")
    ] = False,
    json: Annotated[
        Path | None, typer.Option(help="Where to write what the table says as JSON.")
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option(help="Records of accuracy, covid or variants, instead of the job's own."),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Measure nothing; show what is on record.")
    ] = False,
    provisioned: Annotated[
        bool,
        typer.Option("--provisioned", help="Of round: real federations, not FLARE's simulator."),
    ] = False,
    trials: Annotated[int, typer.Option(help="Of chaos: runs with five kills each.", min=1)] = 10,
    seed: Annotated[int, typer.Option(help="Of chaos: of kinds and moments.")] = 0,
    debug: DebugOption = False,
) -> None:
    """Run a benchmark.

    Of a speed, the value of a row is a median and its spread the quartiles. Of a share of runs, the
    spread is its exact 95 % interval. Of an accuracy, what is on record is not measured again.
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
