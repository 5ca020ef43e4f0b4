"""Scores predicted masks against the reference, for each patient and over patients.

Scores are measured on the grid of the original file. Dice is 1 if both masks are empty and 0 if one
is. HD95 is 0 mm if both masks are empty and None if one is, because there is no distance.
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
    """Dice of each structure, 2 |P and T| / (|P| + |T|); 1 if both are empty.

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
        mm of each structure; 0 if both masks are empty, None if one is.
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
    """Scores one patient.

    Args:
        predicted: binary (L, x, y, z).
        truth: binary (L, x, y, z).
        spacing: size of a voxel, mm.
        names: names of the L structures.
        distances: whether to compute HD95 and volumes too, which costs more than Dice.

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
    """Averages Dice over patients, and withholds the score of a small group.

    Args:
        patients: the Dice of each scan by structure, for each patient; at least one patient.
        smallest_group: a score over fewer patients is withheld.

    Returns:
        The mean over patients and structures, for the hospital's own use, and the score that may
        leave the hospital.
    """
    summaries = {
        name: summarise(float(np.mean([scan[name] for scan in scans])) for scans in patients)
        for name in patients[0][0]
    }
    means = {name: float(summary.mean or 0.0) for name, summary in summaries.items()}
    value = sum(means.values()) / len(means)
    if len(patients) < smallest_group:
        return value, Score(withheld=f"fewer than {smallest_group} patients")
    intervals = {
        name: [min(1.0, max(0.0, end)) for end in summary.interval]
        for name, summary in summaries.items()
        if summary.interval is not None
    }
    return value, Score(patients=len(patients), figures=means, interval=intervals or None)
