"""`consortium evaluate`: scores a model on the labelled patients of one or more hospitals.

Scores every labelled patient, including those that the model was trained on. Refuses a model whose
inputs or outputs do not match the data, before any data is read.
"""

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The folder of a model.")],
    data: Annotated[
        Path,
        typer.Option(metavar="DIR", help="One hospital's folder, or a folder of such folders."),
    ],
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write all scores here.")
    ] = None,
) -> None:
    """Score a model on every labelled patient: Dice, HD95 in mm and volumes in mL.

    Models for tables: accuracy and AUROC. Models for X-ray images: AUROC, average precision,
    sensitivity and calibration error of each class against the others.
    If neither mask has the structure, Dice is 1 and HD95 is 0. If only one mask has it, Dice is 0
    and HD95 is not defined (null). Intervals are 95 % bootstrap intervals of the mean over
    patients.
    """
    from consortium.cli.models import open_model
    from consortium.cli.scores import print_table, progress_bar
    from consortium.core.files import write_json
    from consortium.tasks.folders import folders_with
    from consortium.tasks.registry import task_of, text_of_task

    opened = open_model(model)
    folders = folders_with(data, opened.settings.listing)
    with progress_bar(text_of_task(opened.settings.task).progress) as progress:
        evaluation = task_of(opened.settings).evaluate(opened, folders, progress)
    if json_file is not None:
        write_json(json_file, evaluation.scores)
    print_table(evaluation.table)
