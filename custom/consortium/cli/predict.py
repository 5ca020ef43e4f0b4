"""`consortium predict`: what a model says of files: a mask, or a table of probabilities."""

from pathlib import Path
from typing import Annotated

import typer


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
    from consortium.cli.models import open_model, require_inputs
    from consortium.cli.scores import progress_bar
    from consortium.tasks.registry import task_of, text_of_task

    opened = open_model(model)
    require_inputs(opened.settings, images, model)
    with progress_bar(text_of_task(opened.settings.task).progress) as progress:
        task_of(opened.settings).predict(opened, images, output, progress, print)
