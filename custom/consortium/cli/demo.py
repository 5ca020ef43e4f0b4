"""`scripts/demo`: trains one model across four generated hospitals and shows the result."""

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from consortium.cli.models import open_model
from consortium.cli.outcome import print_result
from consortium.cli.progress import RunProgress, stderr_console
from consortium.cli.run import DebugOption, run_app
from consortium.core.errors import Incomplete, Refused, UsageError
from consortium.core.files import write_text
from consortium.imaging.pictures import Picture
from consortium.report.curves import write_pictures
from consortium.report.page import render_report
from consortium.runs.centralised import add_centralised
from consortium.runs.local_federation import FederatedRun
from consortium.study.job_folder import SETTINGS, find_job
from consortium.tasks.folders import hospital_folders
from consortium.tasks.registry import load_settings, synthetic_of
from consortium.tasks.synthetic import Request, Synthetic

app = typer.Typer(add_completion=False)
_MARK = "made-by-demo"


@app.command()
def demo(
    workspace: Annotated[Path, typer.Option(help="Folder for the demo; replaced at each run.")],
    seed: Annotated[int, typer.Option(help="Seed of the patients and the run.", min=0)] = 0,
    rounds: Annotated[int | None, typer.Option(help="Number of rounds.", min=1)] = None,
    job: Annotated[
        str,
        typer.Option(
            help="tumor_segmentation (scans), heart_disease (tables) or covid_detection (X-ray"
            " images)."
        ),
    ] = "tumor_segmentation",
    shortcut: Annotated[
        float,
        typer.Option(
            help="X-ray images: how differently the hospitals acquire them, from 0 to 1.",
            min=0,
            max=1,
        ),
    ] = 0.6,
    centralised: Annotated[
        bool,
        typer.Option(
            "--centralised",
            help="Also train a centralised model, for comparison.",
        ),
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Generate the patients of four hospitals, train one model across them, show the result."""
    console, started = stderr_console(), time.monotonic()
    folder = find_job(job)
    synthetic = _synthetic(load_settings(folder / SETTINGS).task, job)
    _clear(workspace)
    data, run = workspace / "hospitals", workspace / "run"
    console.print(f"Generating the {synthetic.patients} of four hospitals")
    request = Request(like=synthetic.likes[0], seed=seed, shortcut=shortcut)
    synthetic.generate(data, request)
    rounds = rounds or synthetic.rounds
    assignments = [*synthetic.assignments, *([f"rounds={rounds}"] if rounds else [])]
    console.print(
        "Training in NVIDIA FLARE: the orchestrator and each hospital start their own signed kit"
    )
    federated = FederatedRun(
        job=folder,
        data=data,
        workspace=run,
        assignments=[f"seed={seed}", "baseline=true", *assignments],
    )
    with RunProgress(console) as progress:
        result = federated.run(progress)
    if centralised and result["complete"]:
        console.print("Training a centralised model on all patients, for comparison")
        result = add_centralised(
            run, hospital_folders(data), smallest_group=federated.smallest_group
        )
    if (run / "model").is_dir() and synthetic.pictures is not None:
        folders = {row["name"]: data / row["name"] for row in result["hospitals"]}
        _add_pictures(result, synthetic.pictures(open_model(run / "model", "cpu"), folders), run)
    print_result(result, run)
    console.print(f"Done in {time.monotonic() - started:.0f} s")
    if not result["complete"]:
        action = "see errors.log and the logs in its folder federation/machines/"
        raise Incomplete("incomplete", result["reason"], str(run), action)


def _synthetic(task: str, job: str) -> Synthetic:
    synthetic = synthetic_of(task)
    if synthetic is None:
        raise UsageError(
            "no-synthetic", f"no generated patients for {task}", job, "name another job"
        )
    return synthetic


def _add_pictures(result: dict[str, Any], pictures: Sequence[Picture], run: Path) -> None:
    """Adds pictures to the page and the TensorBoard curves of a run."""
    lines = (run / "rounds.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    page = render_report(result, records, final=result["final"], pictures=pictures)
    write_text(run / "report.html", page)
    write_pictures(run / "tensorboard", pictures, result["best_round"])


def _clear(workspace: Path) -> None:
    if workspace.exists() and any(workspace.iterdir()):
        if not (workspace / _MARK).exists():
            raise Refused(
                "workspace-in-use", "the demo did not make it", str(workspace), "choose another one"
            )
        shutil.rmtree(workspace)
    workspace.mkdir(parents=True, exist_ok=True)
    (workspace / _MARK).touch()


if __name__ == "__main__":
    run_app(app)
