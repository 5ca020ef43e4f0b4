"""Builds a job's network, always from a MONAI bundle configuration.

The network in training and the network in a bundle therefore cannot differ. Each task has its own
networks, one file each in `consortium.tasks.TASK.networks`.
"""

from typing import Any

import torch

from consortium.core.config_builder import ConfigBuilder
from consortium.core.errors import UsageError
from consortium.protocol.schema import State
from consortium.settings.base import Settings
from consortium.tasks.registry import task_of


def network_config(settings: Settings) -> dict[str, Any]:
    """Returns the MONAI bundle configuration of a job's network.

    Args:
        settings: the job's settings.

    Returns:
        Configuration whose id `network_def` is the network; the other ids are its parts. All
        targets are in monai or torch.

    Raises:
        UsageError: `bad-setting` for a network that cannot be built.
    """
    return task_of(settings).network(settings)


def build_network(settings: Settings, seed: int | None = None) -> torch.nn.Module:
    """Builds a job's network with initial weights; torch's own generator is not changed.

    Args:
        settings: the job's settings.
        seed: seed of the initial weights; None for the job's seed.

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
        # MONAI's DynUNet registers every layer twice: each tensor would be sent twice, and the
        # second name would not be a parameter's.
        object.__setattr__(network, "skip_layers", network._modules.pop("skip_layers"))
    task.initialise(network)
    return network


def network_outline(settings: Settings) -> State:
    """Returns the state of a job's network without its values, which takes no memory.

    Returns:
        Tensors on the meta device, with the names, shapes and types of the network's state.

    Raises:
        UsageError: `bad-setting` for a network that cannot be built.
    """
    try:
        with torch.device("meta"):
            return build_network(settings).state_dict()
    except (RuntimeError, OverflowError, TypeError, ValueError):
        raise UsageError(
            "bad-setting",
            "setting network: no machine can hold such a network",
            "settings.json",
            "correct its sizes",
        ) from None
