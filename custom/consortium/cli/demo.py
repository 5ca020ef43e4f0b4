"""`scripts/demo`: four generated hospitals train together, and what came out is shown."""

import json
import shutil
import time
from pathlib import Path
from typing import Annotated, Any

import nibabel
import numpy as np
import torch
import typer

from consortium.cli.outcome import print_outcome
from consortium.cli.progress import RunProgress, stderr_console
from consortium.cli.run import DebugOption, run_app
from consortium.data.datalist import hospital_folders, read_datalist, split_cases
from consortium.errors import Incomplete, Refused
from consortium.federated_run import FederatedRun
from consortium.files import write_text
from consortium.generator.dataset import generate
from consortium.generator.tables import generate_tables
from consortium.jobs import SETTINGS, find_job
from consortium.pooling import add_pooled
from consortium.report.curves import write_pictures
from consortium.report.page import render_report
from consortium.report.pictures import Picture, side_by_side
from consortium.settings import SegmentationSettings, TabularSettings, load_settings
from consortium.training.bundle import load_model
from consortium.training.inference import load_case, predict_case
from consortium.training.scores import dice

app = typer.Typer(add_completion=False)
_MARK = "made-by-demo"


@app.command()
def demo(
    workspace: Annotated[Path, typer.Option(help="What the demo leaves; made anew each time.")],
    seed: Annotated[int, typer.Option(help="Of the generated scans and the run.", min=0)] = 0,
    rounds: Annotated[int | None, typer.Option(help="Rounds of training.", min=1)] = None,
    job: Annotated[
        str, typer.Option(help="tumor_segmentation, on scans, or heart_disease, on tables.")
    ] = "tumor_segmentation",
    pooled: Annotated[
        bool,
        typer.Option(
            "--pooled", help="Then train one model on all patients in one place, to compare with."
        ),
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Generate the patients of four hospitals, train one model over them, show what came out."""
    console, started = stderr_console(), time.monotonic()
    folder = find_job(job)
    tables = isinstance(load_settings(folder / SETTINGS), TabularSettings)
    _clear(workspace)
    data, run = workspace / "hospitals", workspace / "run"
    console.print(f"Generating the {'tables' if tables else 'scans'} of four hospitals")
    # Of scans short rounds: the page shall show how a model grows.
    assignments = [] if tables else ["training.local_steps=20", f"rounds={rounds or 24}"]
    if tables:
        generate_tables(data, seed=seed)
        assignments = [f"rounds={rounds}"] if rounds else []
    else:
        generate(data, seed=seed)
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
        result = add_pooled(run, hospital_folders(data), smallest_group=federated.smallest_group)
    if (run / "model").is_dir() and not tables:
        _add_pictures(result, data, run)
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


def _add_pictures(result: dict[str, Any], data: Path, run: Path) -> None:
    """Puts one validation patient of each hospital into the report and beside the curves."""
    settings, network = load_model(run / "model", torch.device("cpu"), SegmentationSettings)
    pictures = [_draw(data / row["name"], settings, network) for row in result["hospitals"]]
    lines = (run / "rounds.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    page = render_report(result, records, final=result["final"], pictures=pictures)
    write_text(run / "report.html", page)
    write_pictures(run / "tensorboard", pictures, result["best_round"])


def _draw(hospital: Path, settings: SegmentationSettings, network: torch.nn.Module) -> Picture:
    """The slice with the most tumour of the hospital's first validation patient."""
    split = split_cases(read_datalist(hospital), settings.data.validation_fraction)
    case = split.validation[0]
    assert isinstance(case.image, Path)
    prepared = load_case(settings, case.image, case.label, case.values)
    assert prepared.label_original is not None
    predicted = predict_case(network, prepared, settings, torch.device("cpu"))
    [overlap] = dice(predicted, prepared.label_original)
    scan = nibabel.as_closest_canonical(nibabel.load(case.image))
    truth_mask, predicted_mask = (
        nibabel.as_closest_canonical(
            nibabel.Nifti1Image(mask.numpy()[0].astype(np.uint8), prepared.affine_original)
        ).get_fdata()
        > 0
        for mask in (prepared.label_original, predicted)
    )
    z = int(truth_mask.sum(axis=(0, 1)).argmax())
    return Picture(
        hospital=hospital.name,
        title=f"{hospital.name}, scan {case.patient}",
        caption="FLAIR, the slice with the most tumour. The true outline is blue, the shared"
        f" model's is yellow. Dice of the whole scan: {overlap:.3f}.",
        png=side_by_side(
            scan.get_fdata()[:, :, z, 1], truth_mask[:, :, z], predicted_mask[:, :, z]
        ),
    )


if __name__ == "__main__":
    run_app(app)
