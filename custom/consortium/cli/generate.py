"""`scripts/generate OUT`: patients that look like those of several hospitals; none exists."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from consortium.cli.run import DebugOption, run_app
from consortium.synthetic.dataset import generate
from consortium.synthetic.hospitals import HOSPITALS, Hospital
from consortium.synthetic.protocols import PROTOCOLS
from consortium.tasks.classification import synthetic as radiograph_folders
from consortium.tasks.tabular import synthetic as tables

app = typer.Typer(add_completion=False)
_TABLES, _RADIOGRAPHS = "heart", "chest"


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
            help=f"Channels and structures: {' or '.join(PROTOCOLS)}; {_TABLES}: tables;"
            f" {_RADIOGRAPHS}: X-rays."
        ),
    ] = "lgg",
    shortcut: Annotated[
        float, typer.Option(help="Of X-rays: how unlike the hospitals make X-rays, from 0 to 1.")
    ] = 0.0,
    debug: DebugOption = False,
) -> None:
    """Write patients that look like those of several hospitals, one folder a hospital."""
    hospitals: Sequence[Hospital | tables.Clinic | radiograph_folders.XrayClinic]
    if like == _TABLES:
        hospitals = tables.CLINICS
        tables.generate_tables(out, seed=seed)
    elif like == _RADIOGRAPHS:
        hospitals = radiograph_folders.CLINICS
        radiograph_folders.generate_radiographs(out, seed=seed, shortcut=shortcut)
    else:
        hospitals = HOSPITALS
        generate(out, HOSPITALS, seed=seed, spatial_dims=2 if dims == 2 else 3, like=like)
    for hospital in hospitals:
        print(f"{out / hospital.name}: {hospital.patients + hospital.held_out} patients")


if __name__ == "__main__":
    run_app(app)
