"""Implements `consortium predict` for scans.

The mask has the shape and affine of the scan and is written atomically. For a DICOM series, it can
be a DICOM segmentation, which an archive stores with the series.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from consortium import __version__
from consortium.core.errors import Refused, UsageError
from consortium.imaging.dicom import open_series
from consortium.imaging.dicom_seg import Algorithm, write_segmentation
from consortium.tasks.base import CheckProgress, TrainedModel
from consortium.tasks.segmentation.inference import load_case, predict_case, to_mask, write_mask

NIFTI = (".nii", ".nii.gz")
DICOM = ".dcm"


def predict_scan(
    model: TrainedModel,
    inputs: Sequence[Path],
    output: Path,
    progress: CheckProgress,
    say: Callable[[str], None],
) -> None:
    """Predicts and writes the mask of one scan.

    Raises:
        Refused: the mask would replace an input, or the scan has other channels than the model.
        UsageError: the scan or the output path is invalid.
    """
    _require_output(output, inputs)
    case = load_case(model.settings, inputs[0] if len(inputs) == 1 else tuple(inputs), None)
    predicted = predict_case(model.network, case, model.settings, model.device)
    mask = to_mask(predicted, model.settings)
    if output.suffix == DICOM:
        _write_dicom(output, predicted, inputs[0], model)
    else:
        write_mask(output, mask, case.affine_original)
    spacing = case.spacing_original
    millilitres = float((mask > 0).sum()) * (spacing[0] * spacing[1] * spacing[2] / 1000)
    say(f"wrote {output}: {millilitres:.1f} mL segmented")


def _require_output(output: Path, images: Sequence[Path]) -> None:
    if not output.name.endswith((*NIFTI, DICOM)):
        raise UsageError(
            "bad-output",
            "a mask is a NIfTI or a DICOM file",
            str(output),
            "name a .nii.gz or .dcm file",
        )
    if output.suffix == DICOM and any(image.name.endswith(NIFTI) for image in images):
        raise UsageError(
            "bad-output",
            "a DICOM segmentation needs a DICOM series, and the scan is NIfTI",
            str(output),
            "name a .nii.gz file",
        )
    if not output.parent.is_dir():
        raise UsageError("missing-folder", "no such folder", str(output.parent), "create it first")
    for image in images:
        if output.resolve() == image.resolve():
            raise Refused(
                "same-file", "the mask would replace the scan", str(output), "name another file"
            )
        if image.is_dir() and output.resolve().parent == image.resolve():
            raise Refused(
                "inside-series",
                "the mask would become a file of the series",
                str(output),
                "choose another folder",
            )


def _write_dicom(output: Path, predicted: Tensor, series: Path, model: TrainedModel) -> None:
    structures = dict(zip(model.settings.data.labels, predicted.numpy(), strict=True))
    algorithm = Algorithm(*model.identify(), f"consortium {__version__}")
    write_segmentation(output, structures, open_series(series, str(series)), algorithm)
