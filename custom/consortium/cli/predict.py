"""`consortium predict`: the mask of one scan.

The mask lies on the scan's own grid, with its shape and affine, and is written whole or not at all.
"""

from pathlib import Path
from typing import Annotated

import typer

from consortium.errors import Refused, UsageError

SUFFIXES = (".nii", ".nii.gz")


def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The folder of a model.")],
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A NIfTI scan.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="MASK", help="The NIfTI mask to write.")
    ],
) -> None:
    """Segment one scan with a model; the mask has the scan's shape and affine.

    Structures that exclude each other: a voxel is given to the most probable one above a half.
    Structures that overlap: later ones are painted over earlier ones. For research, not diagnosis.
    """
    if not output.name.endswith(SUFFIXES):
        raise UsageError("bad-output", "a mask is a NIfTI file", str(output), "name it .nii.gz")
    if not output.parent.is_dir():
        raise UsageError("missing-folder", "no such folder", str(output.parent), "make it first")
    if output.resolve() == image.resolve():
        raise Refused("same-file", "the mask would replace the scan", str(output), "name another")

    import torch

    from consortium.training.bundle import load_bundle
    from consortium.training.inference import load_case, predict_case, to_mask, write_mask

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings, network = load_bundle(model, device)
    case = load_case(settings, image, None)
    mask = to_mask(predict_case(network, case, settings, device), settings)
    write_mask(output, mask, case.affine_original)
    millilitres = float((mask > 0).sum()) * _millilitres(case.spacing_original)
    print(f"wrote {output}: {millilitres:.1f} mL segmented")


def _millilitres(spacing: tuple[float, float, float]) -> float:
    return spacing[0] * spacing[1] * spacing[2] / 1000
