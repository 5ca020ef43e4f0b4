"""`scripts/generate OUT`: writes synthetic patients of several hospitals; none exists."""

from pathlib import Path
from typing import Annotated

import typer

from consortium.cli.run import DebugOption, run_app
from consortium.cli.terminal import say
from consortium.core.errors import UsageError
from consortium.core.plurals import plural
from consortium.tasks.registry import TASKS, synthetic_of
from consortium.tasks.synthetic import Request, Synthetic

app = typer.Typer(add_completion=False)


def _generators() -> dict[str, Synthetic]:
    """Maps each kind of patients to the task's generator."""
    known = [synthetic for task in TASKS if (synthetic := synthetic_of(task)) is not None]
    return {like: synthetic for synthetic in known for like in synthetic.likes}


def _describe_kinds() -> str:
    return "; ".join(f"{like}: {synthetic.patients}" for like, synthetic in _generators().items())


@app.command("generate")
def write(
    out: Annotated[Path, typer.Argument(help="Folder to write; new or empty.")],
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.", min=0)] = 0,
    dims: Annotated[
        int, typer.Option(help="Scans: 2 for stacks of thick slices, 3 for cubes.", min=2, max=3)
    ] = 2,
    like: Annotated[
        str,
        typer.Option(help=f"Kind of patients: {_describe_kinds()}."),
    ] = "lgg",
    shortcut: Annotated[
        float,
        typer.Option(help="X-ray images: how differently the hospitals acquire them, from 0 to 1."),
    ] = 0.0,
    debug: DebugOption = False,
) -> None:
    """Write synthetic patients of several hospitals, one folder for each hospital."""
    generators = _generators()
    if like not in generators:
        known = " or ".join(generators)
        raise UsageError("unknown-protocol", "there is no such protocol", like, f"name {known}")
    request = Request(like=like, seed=seed, dims=2 if dims == 2 else 3, shortcut=shortcut)
    hospitals = generators[like].generate(out, request)
    for hospital in hospitals:
        say(f"{out / hospital.name}: {plural(hospital.patients + hospital.held_out, 'patient')}")


if __name__ == "__main__":
    run_app(app)
