"""The networks that a segmentation job may choose, each as a MONAI bundle configuration.

Every network maps (N, channels, X, Y[, Z]) to (N, structures, X, Y[, Z]) of the same
spatial size; the output is one logit per structure, of which the sigmoid is the probability: the
structures may overlap. The last layer is a plain convolution. MONAI's
`UNet(out_channels=1, num_res_units>=1)` would end in a normalisation of its only channel, which
ruins federated averaging; hence its 8 channels and the 1x1 convolution behind them.
"""

import math
from typing import Any

import torch

from consortium.core.errors import UsageError
from consortium.tasks.segmentation.settings import SegmentationSettings

UNET_OUTPUTS = 8
"""Channels between the U-Net and the 1x1 convolution."""

INITIAL_BIAS = -2.0
"""Of the last layer: a voxel starts with a probability of 0.12, as most voxels are background."""


def network_config(settings: SegmentationSettings) -> dict[str, Any]:
    """See `consortium.models.networks.network_config`.

    Raises:
        UsageError: `bad-setting` for a network that cannot be built, or patches that it cannot
            halve at each of its levels.
    """
    data, network = settings.data, settings.network
    levels = len(network.features)
    _check(settings)
    common = {
        "spatial_dims": data.spatial_dims,
        "in_channels": len(data.channels),
        "out_channels": len(data.labels),
    }
    if network.name == "segresnet":
        return {
            "network_def": {
                "_target_": "monai.networks.nets.SegResNet",
                **common,
                "init_filters": network.features[0],
                "blocks_down": [max(1, network.residual_units)] * levels,
                "blocks_up": [1] * (levels - 1),
                "norm": _normalisation(settings),
                "dropout_prob": network.dropout or None,
            }
        }
    if network.name == "dynunet":
        strides = [1] + [2] * (levels - 1)
        return {
            "network_def": {
                "_target_": "monai.networks.nets.DynUNet",
                **common,
                "kernel_size": [3] * levels,
                "strides": strides,
                "upsample_kernel_size": strides[1:],
                "filters": network.features,
                "norm_name": _normalisation(settings),
                "dropout": network.dropout or None,
                "deep_supervision": False,
            }
        }
    return {
        "network_body": {
            "_target_": "monai.networks.nets.UNet",
            **common,
            "out_channels": UNET_OUTPUTS,
            "channels": network.features,
            "strides": [2] * (levels - 1),
            "num_res_units": network.residual_units,
            "norm": _normalisation(settings),
            "dropout": network.dropout,
        },
        "network_head": {
            "_target_": f"torch.nn.Conv{data.spatial_dims}d",
            "in_channels": UNET_OUTPUTS,
            "out_channels": len(data.labels),
            "kernel_size": 1,
        },
        "network_def": "$torch.nn.Sequential(@network_body, @network_head)",
    }


def initialise(network: torch.nn.Module) -> None:
    """Makes an outline as rare as it is."""
    last = [
        layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d | torch.nn.Conv3d)
    ][-1]
    assert last.bias is not None
    torch.nn.init.constant_(last.bias, INITIAL_BIAS)


def _normalisation(settings: SegmentationSettings) -> list[Any]:
    """MONAI's name and arguments; groups divide the channels of every level and the 8 outputs."""
    name = settings.network.normalisation
    if name == "group":
        return ["group", {"num_groups": math.gcd(UNET_OUTPUTS, *settings.network.features)}]
    return [name, {"affine": True}]


def _check(settings: SegmentationSettings) -> None:
    network, levels = settings.network, len(settings.network.features)
    if network.name == "segresnet":
        doubled = [network.features[0] * 2**level for level in range(levels)]
        if network.features != doubled:
            raise UsageError(
                "bad-setting",
                f"setting network.features: segresnet doubles its channels, {doubled}",
                "settings.json",
                "correct the value",
            )
    if network.name == "dynunet" and levels < 3:
        raise UsageError(
            "bad-setting",
            "setting network.features: dynunet needs 3 levels or more",
            "settings.json",
            "add a level",
        )
    factor = 2 ** (levels - 1)
    for size in settings.data.size:
        if size % factor or size == factor:
            raise UsageError(
                "bad-setting",
                f"setting data.size: {size} is not a multiple of {factor} above {factor}, which "
                f"{levels} levels of network.features need",
                "settings.json",
                "change data.size or the number of levels",
            )
