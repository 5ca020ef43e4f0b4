"""Pictures of the demo's scans: the true outline of a tumour and that of the shared model."""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch

from consortium.core.files import write_text
from consortium.models.bundle import load_model
from consortium.report.curves import write_pictures
from consortium.report.page import render_report
from consortium.report.pictures import Picture, side_by_side
from consortium.tasks.segmentation.datalist import read_datalist, split_cases
from consortium.tasks.segmentation.inference import load_case, predict_case
from consortium.tasks.segmentation.scores import dice
from consortium.tasks.segmentation.settings import SegmentationSettings


def add_pictures(result: dict[str, Any], data: Path, run: Path) -> None:
    """Puts one validation patient of each hospital into the report and beside the curves.

    Args:
        result: of the run.
        data: the hospitals' folders.
        run: what the run left.
    """
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
