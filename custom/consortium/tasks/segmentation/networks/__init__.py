"""The networks of segmentation jobs: one file for each, selected by its name.

A file has a function `network(settings)`, which returns the MONAI bundle configuration whose id
`network_def` is the network. Every network maps (N, channels, X, Y[, Z]) to (N, structures, X, Y[,
Z]) of the same spatial size. The output is one logit per structure; its sigmoid is the probability,
so that structures may overlap. The last layer is a plain convolution.
"""

import math
from importlib import import_module
from typing import Any

import torch

from consortium.core.errors import UsageError
from consortium.tasks.segmentation.settings import SegmentationSettings

UNET_OUTPUTS = 8
"""Channels between the U-Net and the 1x1 convolution."""

INITIAL_BIAS = -2.0
"""Bias of the last layer: the initial probability is 0.12, as most voxels are background."""


def network_config(settings: SegmentationSettings) -> dict[str, Any]:
    """See `consortium.models.networks.network_config`.

    Raises:
        UsageError: `bad-setting` for a network that cannot be built, or a patch size that cannot
            be halved at each of its levels.
    """
    config: dict[str, Any] = import_module(f"{__name__}.{settings.network.name}").network(settings)
    return config


def initialise(network: torch.nn.Module) -> None:
    """Sets the bias of the last layer, because structures are rare."""
    last = [
        layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d | torch.nn.Conv3d)
    ][-1]
    assert last.bias is not None
    torch.nn.init.constant_(last.bias, INITIAL_BIAS)


def channel_arguments(settings: SegmentationSettings) -> dict[str, int]:
    """The arguments of MONAI's networks for dimensions and channels."""
    return {
        "spatial_dims": settings.data.spatial_dims,
        "in_channels": len(settings.data.channels),
        "out_channels": len(settings.data.labels),
    }


def normalisation(settings: SegmentationSettings) -> list[Any]:
    """MONAI's name and arguments of the normalisation.

    The number of groups divides the channels of every level and the U-Net's 8 outputs.
    """
    name = settings.network.normalisation
    if name == "group":
        return ["group", {"num_groups": math.gcd(UNET_OUTPUTS, *settings.network.features)}]
    return [name, {"affine": True}]


def require_sizes(settings: SegmentationSettings) -> None:
    """Checks that the input size can be halved at each level of the network.

    Raises:
        UsageError: `bad-setting`.
    """
    levels = len(settings.network.features)
    factor = 2 ** (levels - 1)
    for size in settings.data.size:
        if size % factor or size == factor:
            raise bad_setting(
                f"data.size: {size} is not a multiple of {factor} above {factor}, which "
                f"{levels} levels of network.features need",
                "change data.size or the number of levels",
            )


def bad_setting(what: str, todo: str) -> UsageError:
    """The error for settings with which a network cannot be built.

    Args:
        what: dotted key of the setting, a colon and the problem.
        todo: what the reader can do about it.
    """
    return UsageError("bad-setting", f"setting {what}", "settings.json", todo)
