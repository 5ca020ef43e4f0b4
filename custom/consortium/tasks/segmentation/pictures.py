"""Draws scans with the true outline of a structure and a model's."""

from collections.abc import Mapping
from pathlib import Path

import nibabel
import numpy as np
import torch

from consortium.imaging.pictures import Picture, side_by_side
from consortium.tasks.base import TrainedModel
from consortium.tasks.segmentation.datalist import read_datalist, split_cases
from consortium.tasks.segmentation.inference import load_case, predict_case
from consortium.tasks.segmentation.scores import dice
from consortium.tasks.segmentation.settings import SegmentationSettings


def draw_scans(model: TrainedModel, folders: Mapping[str, Path]) -> list[Picture]:
    """Draws one validation patient of each hospital.

    Args:
        model: the model whose outlines are drawn.
        folders: the hospitals' folders, by name.
    """
    return [_draw(folder, model.settings, model.network) for folder in folders.values()]


def _draw(hospital: Path, settings: SegmentationSettings, network: torch.nn.Module) -> Picture:
    """Draws the slice with the most tumour of the hospital's first validation patient."""
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
        caption="FLAIR, the slice with the most tumour. The true outline is blue, the federated"
        f" model's is yellow. Dice of the whole scan: {overlap:.3f}.",
        png=side_by_side(
            scan.get_fdata()[:, :, z, 1], truth_mask[:, :, z], predicted_mask[:, :, z]
        ),
    )
