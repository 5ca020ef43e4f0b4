"""A job's network, which is always built from a MONAI bundle configuration.

So the model in training and the one in a bundle cannot differ. Which networks there are is a matter
of the task: one file each in `consortium.tasks.TASK.networks`.
"""

from typing import Any

import torch

from consortium.core.config_builder import ConfigBuilder
from consortium.settings.base import Settings
from consortium.tasks.registry import task_of


def network_config(settings: Settings) -> dict[str, Any]:
    """The MONAI bundle configuration of a job's network.

    Args:
        settings: a job's settings.

    Returns:
        Configuration whose id `network_def` is the network; the other ids are its parts. Targets
        are of monai and torch alone.

    Raises:
        UsageError: `bad-setting` for a network that cannot be built.
    """
    return task_of(settings).network(settings)


def build_network(settings: Settings, seed: int | None = None) -> torch.nn.Module:
    """Builds a job's network with initial weights; torch's own generator is left as it was.

    Args:
        settings: a job's settings.
        seed: of the initial weights; the job's seed where None.

    Returns:
        The network on the CPU, in training mode. Its state names each tensor once.

    Raises:
        UsageError: see `network_config`.
    """
    task, config = task_of(settings), network_config(settings)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed if seed is None else seed)
        network: torch.nn.Module = ConfigBuilder(config).build("network_def")
    if "skip_layers" in network._modules:
        # MONAI's DynUNet registers every layer a second time: each tensor would cross twice, and
        # the second name would not be known as a parameter's.
        object.__setattr__(network, "skip_layers", network._modules.pop("skip_layers"))
    task.initialise(network)
    return network
