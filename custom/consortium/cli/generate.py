"""`scripts/generate OUT`: patients that look like those of several hospitals; none exists."""

from pathlib import Path
from typing import Annotated

import typer

from consortium.cli.run import DebugOption, run_app
from consortium.generator.dataset import generate
from consortium.generator.hospitals import HOSPITALS
from consortium.generator.protocols import PROTOCOLS
from consortium.generator.tables import CLINICS, generate_tables

app = typer.Typer(add_completion=False)
_TABLES = "heart"


@app.command("generate")
def write(
    out: Annotated[Path, typer.Argument(help="A folder, new or empty.")],
    seed: Annotated[int, typer.Option(help="Of all randomness.", min=0)] = 0,
    dims: Annotated[
        int, typer.Option(help="2: stacks of thick slices; 3: cubes.", min=2, max=3)
    ] = 2,
    like: Annotated[
        str,
        typer.Option(
            help=f"Channels and structures: {' or '.join(PROTOCOLS)}; or {_TABLES}: tables."
        ),
    ] = "lgg",
    debug: DebugOption = False,
) -> None:
    """Write brain scans that look like several hospitals, one folder a hospital."""
    if like == _TABLES:
        generate_tables(out, seed=seed)
        for clinic in CLINICS:
            print(f"{out / clinic.name}: {clinic.patients + clinic.held_out} patients")
        return
    generate(out, HOSPITALS, seed=seed, spatial_dims=2 if dims == 2 else 3, like=like)
    for hospital in HOSPITALS:
        print(f"{out / hospital.name}: {hospital.patients + hospital.held_out} patients")


if __name__ == "__main__":
    run_app(app)
