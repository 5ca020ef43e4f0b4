"""Small networks of X-ray images."""

import torch
from monai.bundle import ConfigParser

from consortium.tasks.classification.networks import (
    network_config,
)
from consortium.tasks.classification.settings import ClassificationSettings


def settings(size: int = 64, classes: int = 3, **network: object) -> ClassificationSettings:
    return ClassificationSettings.model_validate(
        {
            "task": "classification",
            "data": {"classes": {f"class {n}": [str(n)] for n in range(classes)}, "size": size},
            "network": {"features": [8, 16, 32], **network},
        }
    )


def build(job: ClassificationSettings, seed: int = 0) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: torch.nn.Module = ConfigParser(network_config(job)).get_parsed_content(
            "network_def"
        )
    return network
