"""`scripts/demo`: four generated hospitals train together, and what came out is shown."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from consortium.cli.outcome import print_outcome
from consortium.cli.progress import RunProgress, stderr_console
from consortium.cli.run import DebugOption, run_app
from consortium.cli.scan_pictures import add_pictures
from consortium.core.errors import Incomplete, Refused
from consortium.runs.centralised import add_centralised
from consortium.runs.local_federation import FederatedRun
from consortium.settings.base import load_settings
from consortium.study.job_folder import SETTINGS, find_job
from consortium.synthetic.dataset import generate
from consortium.synthetic.tables import generate_tables
from consortium.synthetic.xray_folders import generate_radiographs
from consortium.tasks.segmentation.datalist import hospital_folders

app = typer.Typer(add_completion=False)
_MARK = "made-by-demo"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """What of the demo depends on the job's task.

    Attributes:
        patients: what is generated, in words.
        generate: fills a folder, given the seed and the shortcut.
        rounds: of training; the job's where None.
        assignments: settings of the demo's own.
        finish: adds to the report of a run, given its result, the hospitals and its folder.
    """

    patients: str
    generate: Callable[[Path, int, float], None]
    rounds: int | None = None
    assignments: Sequence[str] = ()
    finish: Callable[[dict[str, Any], Path, Path], None] | None = None


_KINDS: Mapping[str, _Kind] = {
    "segmentation": _Kind(
        patients="scans",
        generate=lambda out, seed, shortcut: generate(out, seed=seed),
        # Short rounds: the page shall show how a model grows.
        rounds=24,
        assignments=["training.local_steps=20"],
        finish=add_pictures,
    ),
    "tabular": _Kind(
        patients="tables",
        generate=lambda out, seed, shortcut: generate_tables(out, seed=seed),
    ),
    "classification": _Kind(
        patients="X-rays",
        generate=lambda out, seed, shortcut: generate_radiographs(
            out, seed=seed, shortcut=shortcut
        ),
        # A tenth of the job's rounds, once more without each hospital: what learns fastest where
        # every hospital has every class.
        rounds=8,
        assignments=[
            *("network.normalisation=batch", "training.loss=adjusted", "training.local_steps=20"),
            *("training.optimiser=adamw", "training.learning_rate=0.001"),
            *("training.weight_decay=0.01", "server.adaptive=null", "server.learning_rate=1"),
            "server.momentum=0",
        ],
    ),
}


@app.command()
def demo(
    workspace: Annotated[Path, typer.Option(help="What the demo leaves; made anew each time.")],
    seed: Annotated[int, typer.Option(help="Of the generated patients and the run.", min=0)] = 0,
    rounds: Annotated[int | None, typer.Option(help="Rounds of training.", min=1)] = None,
    job: Annotated[
        str,
        typer.Option(
            help="tumor_segmentation, on scans, heart_disease, on tables, or covid_detection, on"
            " X-rays."
        ),
    ] = "tumor_segmentation",
    shortcut: Annotated[
        float,
        typer.Option(
            help="Of X-rays: how unlike the hospitals make X-rays, from 0 to 1.", min=0, max=1
        ),
    ] = 0.6,
    pooled: Annotated[
        bool,
        typer.Option(
            "--centralised",
            help="Then train one model on all patients in one place, to compare with.",
        ),
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Generate the patients of four hospitals, train one model over them, show what came out."""
    console, started = stderr_console(), time.monotonic()
    folder = find_job(job)
    kind = _KINDS[load_settings(folder / SETTINGS).task]
    _clear(workspace)
    data, run = workspace / "hospitals", workspace / "run"
    console.print(f"Generating the {kind.patients} of four hospitals")
    kind.generate(data, seed, shortcut)
    rounds = rounds or kind.rounds
    assignments = [*kind.assignments, *([f"rounds={rounds}"] if rounds else [])]
    console.print(
        "Training in NVIDIA FLARE: orchestrator and hospitals each start their own signed kit"
    )
    federated = FederatedRun(
        job=folder,
        data=data,
        workspace=run,
        assignments=[f"seed={seed}", "baseline=true", *assignments],
    )
    with RunProgress(console) as progress:
        result = federated.run(progress)
    if pooled and result["complete"]:
        console.print("One model is trained on all patients in one place, for comparison")
        result = add_centralised(
            run, hospital_folders(data), smallest_group=federated.smallest_group
        )
    if (run / "model").is_dir() and kind.finish:
        kind.finish(result, data, run)
    print_outcome(result, run)
    console.print(f"{time.monotonic() - started:.0f} s in all")
    if not result["complete"]:
        action = "see errors.log below federation/machines/ there, then the logs beside"
        raise Incomplete("incomplete", result["reason"], str(run), action)


def _clear(workspace: Path) -> None:
    if workspace.exists() and any(workspace.iterdir()):
        if not (workspace / _MARK).exists():
            raise Refused(
                "workspace-in-use", "not made by the demo", str(workspace), "choose another one"
            )
        shutil.rmtree(workspace)
    workspace.mkdir(parents=True, exist_ok=True)
    (workspace / _MARK).touch()


if __name__ == "__main__":
    run_app(app)
