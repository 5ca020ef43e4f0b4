"""A model's folder, opened for a command."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from consortium.core.errors import Refused
from consortium.models.bundle import identify, load_bundle
from consortium.settings.base import Settings
from consortium.tasks.base import TrainedModel
from consortium.tasks.registry import TASKS, task_of, text_of_task


def open_model(folder: Path, device: str | None = None) -> TrainedModel:
    """Opens a model without running anything that came with it; see `load_bundle`.

    Args:
        folder: of the model.
        device: where its network shall be; on a GPU where None and there is one.
    """
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    settings, network = load_bundle(folder, chosen)
    return TrainedModel(
        settings=settings, network=network, device=chosen, identify=partial(identify, folder)
    )


def require_inputs(settings: Settings, inputs: Sequence[Path], folder: Path) -> None:
    """Refuses what a model of another task is given.

    Args:
        settings: of the model.
        inputs: what the model is given.
        folder: of the model.

    Raises:
        Refused: `wrong-task`.
    """
    if all(task_of(settings).accepts(path) for path in inputs):
        return
    *others, last = (text_of_task(task).inputs for task in TASKS)
    raise Refused(
        "wrong-task",
        f"the model is of the task {settings.task}",
        str(folder),
        f"give it what it was trained on: {', '.join(others)}, or {last}",
    )
