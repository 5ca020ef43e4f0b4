"""MONAI's DynUNet, without deep supervision."""

from typing import Any

from consortium.tasks.segmentation.networks import (
    bad_setting,
    channel_arguments,
    normalisation,
    require_sizes,
)
from consortium.tasks.segmentation.settings import SegmentationSettings


def network(settings: SegmentationSettings) -> dict[str, Any]:
    """See `consortium.tasks.segmentation.networks`."""
    chosen = settings.network
    levels = len(chosen.features)
    if levels < 3:
        raise bad_setting("network.features: dynunet needs 3 levels or more", "add a level")
    require_sizes(settings)
    strides = [1] + [2] * (levels - 1)
    return {
        "network_def": {
            "_target_": "monai.networks.nets.DynUNet",
            **channel_arguments(settings),
            "kernel_size": [3] * levels,
            "strides": strides,
            "upsample_kernel_size": strides[1:],
            "filters": chosen.features,
            "norm_name": normalisation(settings),
            "dropout": chosen.dropout or None,
            "deep_supervision": False,
        }
    }
