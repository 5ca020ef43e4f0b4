"""`scripts/generate OUT`: patients that look like those of several hospitals; none exists."""

from pathlib import Path
from typing import Annotated

import typer

from consortium.cli.run import DebugOption, run_app
from consortium.core.errors import UsageError
from consortium.tasks.registry import TASKS, synthetic_of
from consortium.tasks.synthetic import Request, Synthetic

app = typer.Typer(add_completion=False)


def _makers() -> dict[str, Synthetic]:
    """What patients may be like, and who makes them."""
    known = [synthetic for task in TASKS if (synthetic := synthetic_of(task)) is not None]
    return {like: synthetic for synthetic in known for like in synthetic.likes}


def _described() -> str:
    return "; ".join(f"{like}: {each.patients}" for like, each in _makers().items())


@app.command("generate")
def write(
    out: Annotated[Path, typer.Argument(help="A folder, new or empty.")],
    seed: Annotated[int, typer.Option(help="Of all randomness.", min=0)] = 0,
    dims: Annotated[
        int, typer.Option(help="2: stacks of thick slices; 3: cubes.", min=2, max=3)
    ] = 2,
    like: Annotated[
        str,
        typer.Option(help=f"Which patients: {_described()}."),
    ] = "lgg",
    shortcut: Annotated[
        float, typer.Option(help="Of X-rays: how unlike the hospitals make X-rays, from 0 to 1.")
    ] = 0.0,
    debug: DebugOption = False,
) -> None:
    """Write patients that look like those of several hospitals, one folder a hospital."""
    makers = _makers()
    if like not in makers:
        known = " or ".join(makers)
        raise UsageError("unknown-protocol", "there is no such protocol", like, f"name {known}")
    request = Request(like=like, seed=seed, dims=2 if dims == 2 else 3, shortcut=shortcut)
    hospitals = makers[like].generate(out, request)
    for hospital in hospitals:
        print(f"{out / hospital.name}: {hospital.patients + hospital.held_out} patients")


if __name__ == "__main__":
    run_app(app)
