"""The generator of patients with scans; none of them exists."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from consortium.synthetic.dataset import generate
from consortium.synthetic.hospitals import HOSPITALS, Hospital
from consortium.synthetic.protocols import PROTOCOLS
from consortium.tasks.synthetic import Request, Synthetic

if TYPE_CHECKING:
    from consortium.imaging.pictures import Picture
    from consortium.tasks.base import TrainedModel


def _generate(out: Path, request: Request) -> Sequence[Hospital]:
    generate(
        out,
        HOSPITALS,
        seed=request.seed,
        spatial_dims=request.dims,
        like=request.like,
        processes=len(os.sched_getaffinity(0)),
    )
    return HOSPITALS


def _pictures(model: "TrainedModel", folders: Mapping[str, Path]) -> "list[Picture]":
    from consortium.tasks.segmentation.pictures import draw_scans  # needs torch

    return draw_scans(model, folders)


SYNTHETIC = Synthetic(
    patients="scans",
    likes=tuple(PROTOCOLS),
    generate=_generate,
    # Short rounds, so that the page shows how a model improves.
    rounds=12,
    assignments=("training.local_steps=20",),
    pictures=_pictures,
)
