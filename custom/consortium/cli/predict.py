"""`consortium predict`: applies a model to files; writes a mask or a table of probabilities."""

from pathlib import Path
from typing import Annotated

import typer

from consortium.cli.terminal import say


def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The folder of a model.")],
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE...",
            help="A NIfTI scan or the folder of a DICOM series; or one for each channel. For a"
            " model of X-ray images: PNG, JPEG or DICOM files, or folders of them. For a model of"
            " tables: a .csv file.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="File to write: NIfTI (.nii.gz), or DICOM (.dcm) for a DICOM series; a .csv file"
            " for X-ray images or a table.",
        ),
    ],
) -> None:
    """Segment one scan with a model; the mask has the scan's shape and affine.

    Exclusive structures: a voxel gets the most probable structure, if its probability is above 0.5.
    Overlapping structures: DICOM has a segment for each; in NIfTI later structures overwrite
    earlier ones. X-ray images: the file lists the probability of each class for each image.
    Tables: the probability of the outcome for each patient. For research, not diagnosis.
    """
    from consortium.cli.models import open_model, require_inputs
    from consortium.cli.scores import progress_bar
    from consortium.tasks.registry import task_of, text_of_task

    opened = open_model(model)
    require_inputs(opened.settings, images, model)
    with progress_bar(text_of_task(opened.settings.task).progress) as progress:
        task_of(opened.settings).predict(opened, images, output, progress, say)
