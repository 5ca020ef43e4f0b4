"""Opens a model's folder for a command."""

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
    """Opens a model without running any code in its folder; see `load_bundle`.

    Args:
        folder: of the model.
        device: of its network; if None, a GPU if there is one, else the CPU.
    """
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    settings, network = load_bundle(folder, chosen)
    return TrainedModel(
        settings=settings, network=network, device=chosen, identify=partial(identify, folder)
    )


def require_inputs(settings: Settings, inputs: Sequence[Path], folder: Path) -> None:
    """Refuses inputs of another task than the model's.

    Args:
        settings: of the model.
        inputs: files or folders for the model.
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
        f"give it inputs of its task: {', '.join(others)}, or {last}",
    )
