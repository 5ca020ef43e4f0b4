"""MONAI's DenseNet-121."""

from typing import Any

from consortium.tasks.classification.networks import normalisation, require_size
from consortium.tasks.classification.settings import ClassificationSettings


def network(settings: ClassificationSettings) -> dict[str, Any]:
    """See `consortium.tasks.classification.networks`."""
    require_size(settings, 64, "densenet121", "set data.size to 64 or more")
    return {
        "network_def": {
            "_target_": "monai.networks.nets.DenseNet121",
            "spatial_dims": 2,
            "in_channels": 1,
            "out_channels": len(settings.data.classes),
            "norm": normalisation(settings),
            "dropout_prob": settings.network.dropout,
        }
    }
