"""X-rays in memory, and what a network says of them."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consortium.confounding.acquisition import NAMES, acquisition_features
from consortium.imaging.radiographs import read_pixels
from consortium.tasks.base import CheckProgress
from consortium.tasks.classification.dataset import Radiograph
from consortium.tasks.classification.settings import Radiographs
from consortium.tasks.classification.transforms import prepare

_BATCH = 64  # X-rays, in evaluation


def load_radiographs(
    radiographs: Sequence[Radiograph],
    data: Radiographs,
    progress: CheckProgress,
    *,
    with_acquisition: bool = False,
) -> tuple[Tensor, NDArray[np.float64]]:
    """Reads X-rays for the network.

    Args:
        radiographs: to read.
        data: what the job makes of them.
        progress: called before each.
        with_acquisition: whether to look at what shows how an X-ray was made, too.

    Returns:
        Radiographs, float32 (X-rays, 1, size, size), and their acquisitions, (X-rays, 8) or (0, 8).

    Raises:
        UnusableRadiograph: one that cannot be read.
    """
    made = torch.empty(len(radiographs), 1, data.size, data.size)
    acquisitions = np.empty((len(radiographs) if with_acquisition else 0, len(NAMES)))
    for place, radiograph in enumerate(radiographs):
        progress(place, len(radiographs))
        values = read_pixels(radiograph.path, radiograph.file).values
        made[place, 0] = torch.from_numpy(prepare(values, data))
        if with_acquisition:
            acquisitions[place] = acquisition_features(255.0 * values.astype(float))
    return made, acquisitions


def run_network(
    network: torch.nn.Module,
    radiographs: Tensor,
    device: torch.device,
    pulse: Callable[[], None] = lambda: None,
) -> NDArray[np.float64]:
    """The probability of each class for each X-ray, (X-rays, classes).

    Args:
        network: any mode; left in evaluation mode.
        radiographs: float32 (X-rays, 1, size, size).
        device: where the network is.
        pulse: called before each batch; it may raise to stop.
    """
    network.eval()
    found = []
    with torch.no_grad():
        for batch in torch.split(radiographs, _BATCH):
            pulse()
            found.append(torch.softmax(network(batch.to(device)).double(), 1).cpu())
    return np.asarray(torch.cat(found).numpy())


def class_probabilities(
    network: torch.nn.Module,
    radiographs: Sequence[Radiograph],
    data: Radiographs,
    device: torch.device,
    progress: CheckProgress = lambda done, radiographs: None,
) -> NDArray[np.float64]:
    """Reads X-rays and gives the probability of each class for each, (X-rays, classes).

    Raises:
        UnusableRadiograph: one that cannot be read.
    """
    return run_network(network, load_radiographs(radiographs, data, progress)[0], device)
