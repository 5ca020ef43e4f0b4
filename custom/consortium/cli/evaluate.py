"""`consortium evaluate`: how good a model is on the labelled patients of one or more hospitals.

Every labelled patient is scored, those that the model was trained on included. A model of other
inputs or outputs than the data is refused before any is read.
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

    A model of tables is scored by accuracy and AUROC; one of X-rays by AUROC, average precision,
    sensitivity and calibration error of each class against the others.
    Dice is 1 where neither mask has the structure and 0 where one has. HD95 is 0 where neither has
    it; where only one has there is no distance (null), and the patient counts in Dice alone.
    Intervals are 95 % bootstrap intervals of the mean over patients.
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
