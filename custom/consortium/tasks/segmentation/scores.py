"""How well predicted masks agree with the reference, patient by patient and over patients.

All is measured on the grid of the original file. Dice of two empty masks is 1, of one empty mask 0.
HD95 of two empty masks is 0 mm; where only one is empty there is no distance, and it is None.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from consortium.protocol.metrics import Score
from consortium.tasks.scores import summarise


def dice(predicted: torch.Tensor, truth: torch.Tensor) -> list[float]:
    """Dice of each structure, 2 |P and T| / (|P| + |T|); 1 where both are empty.

    Args:
        predicted: binary (L, x, y, z).
        truth: binary (L, x, y, z).
    """
    first, second = predicted.flatten(1) > 0, truth.flatten(1) > 0
    both = (first & second).sum(1).tolist()
    sizes = (first.sum(1) + second.sum(1)).tolist()
    return [2 * overlap / size if size else 1.0 for overlap, size in zip(both, sizes, strict=True)]


def hausdorff95(
    predicted: torch.Tensor, truth: torch.Tensor, spacing: Sequence[float]
) -> list[float | None]:
    """95th percentile of the distance between the surfaces of each structure, in mm.

    MONAI's symmetric HD95: the larger of the two directed percentiles.

    Args:
        predicted: binary (L, x, y, z).
        truth: binary (L, x, y, z).
        spacing: size of a voxel, mm.

    Returns:
        0 where both masks are empty, None where one is.
    """
    result: list[float | None] = []
    for first, second in zip(predicted > 0, truth > 0, strict=True):
        if not first.any() or not second.any():
            result.append(None if first.any() or second.any() else 0.0)
            continue
        from monai.metrics import compute_hausdorff_distance

        with warnings.catch_warnings():
            # MONAI 1.6 calls its own function with an argument that it deprecated.
            warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)
            distance = compute_hausdorff_distance(
                first[None, None].float(),
                second[None, None].float(),
                include_background=True,
                percentile=95,
                spacing=[float(size) for size in spacing],
            )
        result.append(float(distance))
    return result


def score_case(
    predicted: torch.Tensor,
    truth: torch.Tensor,
    spacing: Sequence[float],
    names: Sequence[str],
    *,
    distances: bool,
) -> dict[str, dict[str, Any]]:
    """The scores of one patient.

    Args:
        predicted: binary (L, x, y, z).
        truth: binary (L, x, y, z).
        spacing: size of a voxel, mm.
        names: of the L structures.
        distances: whether to measure HD95 and volumes too; Dice alone is cheap.

    Returns:
        {"dice": {name: value}} and, with `distances`, "hd95" in mm (see `hausdorff95`) and
        "volume_ml": {name: {"predicted": mL, "true": mL}}.
    """
    scores: dict[str, dict[str, Any]] = {
        "dice": dict(zip(names, dice(predicted, truth), strict=True))
    }
    if distances:
        measured = hausdorff95(predicted, truth, spacing)
        scores["hd95"] = dict(zip(names, measured, strict=True))
        millilitres = math.prod(spacing) / 1000
        scores["volume_ml"] = {
            name: {
                "predicted": int((first > 0).sum()) * millilitres,
                "true": int((second > 0).sum()) * millilitres,
            }
            for name, first, second in zip(names, predicted, truth, strict=True)
        }
    return scores


def group_score(
    patients: Sequence[Sequence[Mapping[str, float]]], smallest_group: int
) -> tuple[float, Score]:
    """The mean Dice over patients, for the hospital's own use, and what of it may leave.

    Args:
        patients: for each patient the Dice of each scan, by structure; at least one.
        smallest_group: a score over fewer patients is withheld.

    Returns:
        The mean over patients and structures, and the score that may be sent.
    """
    summaries = {
        name: summarise(float(np.mean([scan[name] for scan in scans])) for scans in patients)
        for name in patients[0][0]
    }
    means = {name: float(said.mean or 0.0) for name, said in summaries.items()}
    value = sum(means.values()) / len(means)
    if len(patients) < smallest_group:
        return value, Score(withheld=f"fewer than {smallest_group} patients")
    intervals = {
        name: [min(1.0, max(0.0, end)) for end in said.interval]
        for name, said in summaries.items()
        if said.interval is not None
    }
    return value, Score(patients=len(patients), figures=means, interval=intervals or None)
