"""`consortium predict`: the mask of one scan, the classes of X-rays, or a table's outcomes.

The mask lies on the scan's own grid, with its shape and affine, and is written whole or not at all.
Of a DICOM series it can be a DICOM segmentation, which an archive keeps beside the series.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from consortium.cli.table import predict_table
from consortium.cli.xrays import predict_radiographs
from consortium.core.errors import Refused, UsageError

if TYPE_CHECKING:
    from torch import Tensor, device
    from torch.nn import Module

    from consortium.tasks.segmentation.settings import SegmentationSettings

NIFTI = (".nii", ".nii.gz")
DICOM = ".dcm"
TABLE = ".csv"


def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The folder of a model.")],
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE...",
            help="A NIfTI scan or the folder of a DICOM series; or one for each channel. For a"
            " model of X-rays: X-rays as PNG, JPEG or DICOM, or folders of them; for one of tables:"
            " a .csv file.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="What to write: NIfTI (.nii.gz), or DICOM (.dcm) of a DICOM series; a .csv file of"
            " X-rays or a table.",
        ),
    ],
) -> None:
    """Segment one scan with a model; the mask has the scan's shape and affine.

    Structures that exclude each other: a voxel is given to the most probable one above a half.
    Structures that overlap: each is a segment of its own in DICOM; in NIfTI later ones are painted
    over earlier ones. Of X-rays, what is written is the probability of each class for each X-ray;
    of a table, that of the outcome for each patient. For research, not diagnosis.
    """
    if any(image.suffix.lower() == TABLE for image in images):
        if len(images) > 1:
            raise UsageError("usage", "one table at a time", str(images[1]), "leave it out")
        predict_table(model, images[0], output)
        return
    import torch

    from consortium.models.bundle import load_bundle, require_task
    from consortium.tasks.classification.settings import ClassificationSettings
    from consortium.tasks.segmentation.settings import SegmentationSettings

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings, network = load_bundle(model, device)
    if isinstance(settings, ClassificationSettings):
        predict_radiographs(settings, network, device, images, output)
        return
    scans = require_task(settings, SegmentationSettings, model)
    _require_output(output, images)
    _predict_scan(scans, network, device, images, output, model)


def _predict_scan(
    settings: "SegmentationSettings",
    network: "Module",
    device: "device",
    images: list[Path],
    output: Path,
    model: Path,
) -> None:
    from consortium.tasks.segmentation.inference import load_case, predict_case, to_mask, write_mask

    case = load_case(settings, images[0] if len(images) == 1 else tuple(images), None)
    found = predict_case(network, case, settings, device)
    mask = to_mask(found, settings)
    if output.suffix == DICOM:
        _write_dicom(output, found, images[0], settings, model)
    else:
        write_mask(output, mask, case.affine_original)
    millilitres = float((mask > 0).sum()) * _millilitres(case.spacing_original)
    print(f"wrote {output}: {millilitres:.1f} mL segmented")


def _require_output(output: Path, images: list[Path]) -> None:
    if not output.name.endswith((*NIFTI, DICOM)):
        raise UsageError(
            "bad-output",
            "a mask is a NIfTI or a DICOM file",
            str(output),
            "name it .nii.gz or .dcm",
        )
    if output.suffix == DICOM and any(image.name.endswith(NIFTI) for image in images):
        raise UsageError(
            "bad-output",
            "a DICOM segmentation is of a DICOM series, the scan is NIfTI",
            str(output),
            "name it .nii.gz",
        )
    if not output.parent.is_dir():
        raise UsageError("missing-folder", "no such folder", str(output.parent), "make it first")
    for image in images:
        if output.resolve() == image.resolve():
            raise Refused(
                "same-file", "the mask would replace the scan", str(output), "name another"
            )
        if image.is_dir() and output.resolve().parent == image.resolve():
            raise Refused(
                "inside-series",
                "the mask would become a file of the series",
                str(output),
                "choose another folder",
            )


def _write_dicom(
    output: Path, found: "Tensor", series: Path, settings: "SegmentationSettings", model: Path
) -> None:
    from consortium import __version__
    from consortium.imaging.dicom import open_series
    from consortium.imaging.dicom_seg import Algorithm, write_segmentation
    from consortium.models.bundle import identify

    name, version = identify(model)
    structures = dict(zip(settings.data.labels, found.numpy(), strict=True))
    algorithm = Algorithm(name, version, f"consortium {__version__}")
    write_segmentation(output, structures, open_series(series, str(series)), algorithm)


def _millilitres(spacing: tuple[float, float, float]) -> float:
    return spacing[0] * spacing[1] * spacing[2] / 1000
