"""Loads X-rays into memory and runs a network on them."""

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
        radiographs: X-rays to read.
        data: the job's settings of X-rays.
        progress: called before each X-ray.
        with_acquisition: whether to compute the acquisition features too.

    Returns:
        X-rays, float32 (X-rays, 1, size, size), and their acquisition features, (X-rays, 8) or
        (0, 8).

    Raises:
        UnusableRadiograph: an X-ray cannot be read.
    """
    prepared = torch.empty(len(radiographs), 1, data.size, data.size)
    acquisitions = np.empty((len(radiographs) if with_acquisition else 0, len(NAMES)))
    for index, radiograph in enumerate(radiographs):
        progress(index, len(radiographs))
        values = read_pixels(radiograph.path, radiograph.file).values
        prepared[index, 0] = torch.from_numpy(prepare(values, data))
        if with_acquisition:
            acquisitions[index] = acquisition_features(255.0 * values.astype(float))
    return prepared, acquisitions


def run_network(
    network: torch.nn.Module,
    radiographs: Tensor,
    device: torch.device,
    pulse: Callable[[], None] = lambda: None,
) -> NDArray[np.float64]:
    """Computes the probability of each class for each X-ray, (X-rays, classes).

    Args:
        network: in any mode; left in evaluation mode.
        radiographs: float32 (X-rays, 1, size, size).
        device: the network's device.
        pulse: called before each batch; it may raise to stop.
    """
    network.eval()
    probabilities = []
    with torch.no_grad():
        for batch in torch.split(radiographs, _BATCH):
            pulse()
            probabilities.append(torch.softmax(network(batch.to(device)).double(), 1).cpu())
    return np.asarray(torch.cat(probabilities).numpy())


def class_probabilities(
    network: torch.nn.Module,
    radiographs: Sequence[Radiograph],
    data: Radiographs,
    device: torch.device,
    progress: CheckProgress = lambda done, radiographs: None,
) -> NDArray[np.float64]:
    """Reads X-rays and computes the probability of each class for each, (X-rays, classes).

    Raises:
        UnusableRadiograph: an X-ray cannot be read.
    """
    return run_network(network, load_radiographs(radiographs, data, progress)[0], device)
