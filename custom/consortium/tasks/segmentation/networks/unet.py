"""MONAI's U-Net followed by a 1x1 convolution.

`UNet(out_channels=1, num_res_units>=1)` would end in a normalisation of its only channel, which
ruins federated averaging. The 8 outputs and the convolution avoid it.
"""

from typing import Any

from consortium.tasks.segmentation.networks import (
    UNET_OUTPUTS,
    channel_arguments,
    normalisation,
    require_sizes,
)
from consortium.tasks.segmentation.settings import SegmentationSettings


def network(settings: SegmentationSettings) -> dict[str, Any]:
    """See `consortium.tasks.segmentation.networks`."""
    require_sizes(settings)
    data, chosen = settings.data, settings.network
    return {
        "network_body": {
            "_target_": "monai.networks.nets.UNet",
            **channel_arguments(settings),
            "out_channels": UNET_OUTPUTS,
            "channels": chosen.features,
            "strides": [2] * (len(chosen.features) - 1),
            "num_res_units": chosen.residual_units,
            "norm": normalisation(settings),
            "dropout": chosen.dropout,
        },
        "network_head": {
            "_target_": f"torch.nn.Conv{data.spatial_dims}d",
            "in_channels": UNET_OUTPUTS,
            "out_channels": len(data.labels),
            "kernel_size": 1,
        },
        "network_def": "$torch.nn.Sequential(@network_body, @network_head)",
    }
