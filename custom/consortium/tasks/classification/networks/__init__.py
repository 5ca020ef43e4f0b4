"""The networks that classify X-rays: one file each, imported by its name.

A file defines `network(settings)`, which returns a MONAI bundle configuration. The configuration's
id `network_def` is the network; every id begins with `network_`. Every network maps
(N, 1, size, size) to (N, classes), one logit a class, and ends in a mean over the X-ray, which
gives the features, and one linear layer. So collecting features and drawing pictures work for
every network.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from consortium.core.errors import UsageError
from consortium.protocol.schema import State
from consortium.tasks.classification.settings import ClassificationSettings

_GROUPS = 8

# torchvision's names; its older files have a dot between layer and number.
_DENSE_LAYER = re.compile(r"(.*\.denselayer\d+)\.(norm|conv)\.?([12]\..+)")


def network_config(settings: ClassificationSettings) -> dict[str, Any]:
    """See `consortium.models.networks.network_config`.

    Raises:
        UsageError: `bad-setting` if the network's levels leave less than 2 x 2 pixels.
    """
    config: dict[str, Any] = import_module(f"{__name__}.{settings.network.name}").network(settings)
    return config


def normalisation(settings: ClassificationSettings) -> list[Any]:
    """MONAI's name and arguments; 8 groups divide the channels of every level of both networks."""
    name = settings.network.normalisation
    return [name, {"num_groups": _GROUPS} if name == "group" else {"affine": True}]


def require_size(settings: ClassificationSettings, least: int, levels: str, advice: str) -> None:
    """Checks that the levels leave 2 x 2 pixels or more.

    Instance normalisation of a single pixel is always 0, and an attention picture needs several.

    Args:
        settings: the job's settings.
        least: smallest side that the network can take, pixels.
        levels: the part of the network that needs them, for the message.
        advice: what the reader can do about it.

    Raises:
        UsageError: `bad-setting`.
    """
    if settings.data.size < least:
        raise UsageError(
            "bad-setting",
            f"setting data.size: {settings.data.size} pixels are too few for {levels}",
            "settings.json",
            advice,
        )


def last_level(network: torch.nn.Module) -> str:
    """The name of the layer before the mean over the X-ray; its output is (N, features, r, c)."""
    for name, module in network.named_modules():
        before = ""
        for child, layer in module.named_children():
            if isinstance(layer, torch.nn.AdaptiveAvgPool2d):
                return f"{name}.{before}" if name else before
            before = child
    raise ValueError("a network without a mean over the X-ray")


@contextmanager
def pooled_features(network: torch.nn.Module) -> Iterator[list[Tensor]]:
    """Collects the features of all X-rays that pass through the network within the context.

    Args:
        network: a network of `network_config`, in any mode. In `small` dropout comes before the
            features, so they depend on the X-ray alone only in evaluation mode.

    Yields:
        A list that grows by one tensor (N, features) for each call of the network, without
        gradient, on the network's device.
    """
    last = [layer for layer in network.modules() if isinstance(layer, torch.nn.Linear)][-1]
    features: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda layer, inputs: features.append(inputs[0].detach()))
    try:
        yield features
    finally:
        hook.remove()


def take_pretrained(state: State, fresh: State) -> dict[str, Tensor]:
    """Fits pretrained weights of the same architecture to a job's network.

    Accepts our names, which are MONAI's, and torchvision's names of a DenseNet-121. Sums a first
    convolution of three channels to one, which is equivalent for an X-ray that is grey in all
    three. Keeps the fresh last layer if the number of classes differs, and the fresh batch
    counters, which torchvision's older files lack. Leaves everything else as it is: loading the
    result refuses what does not fit.

    Args:
        state: the weights, with any names and shapes.
        fresh: initial weights of the job's network.
    """
    taken = {_our_name(name): tensor for name, tensor in state.items()}
    first = next(iter(fresh))
    if first in taken and taken[first].ndim == 4 and taken[first].shape[1] == 3:
        taken[first] = taken[first].sum(1, keepdim=True)
    weight, bias = list(fresh)[-2:]  # of the last layer, in every network
    if weight in taken and bias in taken:
        ours, theirs = fresh[weight].shape, taken[weight].shape
        if ours != theirs and ours[1:] == theirs[1:]:
            taken |= {name: fresh[name] for name in (weight, bias)}
    counters = {name: fresh[name] for name in fresh if name.endswith(".num_batches_tracked")}
    return counters | taken


def _our_name(name: str) -> str:
    """Renames a tensor of torchvision's DenseNet; keeps every other name."""
    if name.startswith("classifier."):
        return f"class_layers.out.{name.removeprefix('classifier.')}"
    return _DENSE_LAYER.sub(r"\1.layers.\2\3", name)
