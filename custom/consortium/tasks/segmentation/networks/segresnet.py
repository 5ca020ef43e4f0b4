"""MONAI's SegResNet."""

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
    doubled = [chosen.features[0] * 2**level for level in range(levels)]
    if chosen.features != doubled:
        raise bad_setting(
            f"network.features: segresnet doubles its channels, {doubled}", "correct the value"
        )
    require_sizes(settings)
    return {
        "network_def": {
            "_target_": "monai.networks.nets.SegResNet",
            **channel_arguments(settings),
            "init_filters": chosen.features[0],
            "blocks_down": [max(1, chosen.residual_units)] * levels,
            "blocks_up": [1] * (levels - 1),
            "norm": normalisation(settings),
            "dropout_prob": chosen.dropout or None,
        }
    }
