"""A small network: two convolutions a level, the first with stride 2, and a mean over the X-ray."""

from typing import Any

from consortium.tasks.classification.networks import normalisation, require_size
from consortium.tasks.classification.settings import ClassificationSettings


def network(settings: ClassificationSettings) -> dict[str, Any]:
    """See `consortium.tasks.classification.networks`."""
    chosen = settings.network
    least = 2 ** (len(chosen.features) + 1)
    require_size(
        settings,
        least,
        f"{len(chosen.features)} levels of features",
        f"set data.size to {least} or more, or take fewer levels",
    )
    levels: dict[str, Any] = {}
    before = 1
    for number, channels in enumerate(chosen.features, 1):
        levels |= {
            f"network_halve{number}": _convolution(settings, before, channels, stride=2),
            f"network_refine{number}": _convolution(settings, channels, channels, stride=1),
            f"network_level{number}": f"$torch.nn.Sequential(@network_halve{number}, "
            f"@network_refine{number})",
        }
        before = channels
    names = [f"@network_level{number}" for number in range(1, len(chosen.features) + 1)]
    return {
        **levels,
        "network_mean": {"_target_": "torch.nn.AdaptiveAvgPool2d", "output_size": 1},
        "network_flatten": {"_target_": "torch.nn.Flatten"},
        "network_dropout": {"_target_": "torch.nn.Dropout", "p": chosen.dropout},
        "network_classify": {
            "_target_": "torch.nn.Linear",
            "in_features": before,
            "out_features": len(settings.data.classes),
        },
        "network_def": f"$torch.nn.Sequential({', '.join(names)}, "
        "@network_mean, @network_flatten, @network_dropout, @network_classify)",
    }


def _convolution(
    settings: ClassificationSettings, before: int, channels: int, stride: int
) -> dict[str, Any]:
    return {
        "_target_": "monai.networks.blocks.Convolution",
        "spatial_dims": 2,
        "in_channels": before,
        "out_channels": channels,
        "strides": stride,
        "kernel_size": 3,
        "bias": False,  # the normalisation has a bias
        "act": "RELU",
        "norm": normalisation(settings),
    }
