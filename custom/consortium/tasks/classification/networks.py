"""The networks that tell classes of X-rays apart, each as a MONAI bundle configuration.

Every network maps (N, 1, size, size) to (N, classes), one logit a class, and ends alike: a mean
over the X-ray, which gives the features, and one linear layer. So features are collected and
pictures drawn without asking which network it is.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from consortium.core.errors import UsageError
from consortium.protocol.schema import State
from consortium.tasks.classification.settings import ClassificationSettings

_GROUPS = 8

# Of torchvision, with a dot between layer and number in its older files.
_DENSE_LAYER = re.compile(r"(.*\.denselayer\d+)\.(norm|conv)\.?([12]\..+)")


def network_config(settings: ClassificationSettings) -> dict[str, Any]:
    """See `consortium.models.networks.network_config`.

    Raises:
        UsageError: `bad-setting` for X-rays of which the network's levels leave no 2 x 2 places.
    """
    network, classes = settings.network, len(settings.data.classes)
    _check(settings)
    if network.name == "densenet121":
        return {
            "network_def": {
                "_target_": "monai.networks.nets.DenseNet121",
                "spatial_dims": 2,
                "in_channels": 1,
                "out_channels": classes,
                "norm": _normalisation(settings),
                "dropout_prob": network.dropout,
            }
        }
    levels: dict[str, Any] = {}
    before = 1
    for number, channels in enumerate(network.features, 1):
        levels |= {
            f"network_halve{number}": _convolution(settings, before, channels, stride=2),
            f"network_refine{number}": _convolution(settings, channels, channels, stride=1),
            f"network_level{number}": f"$torch.nn.Sequential(@network_halve{number}, "
            f"@network_refine{number})",
        }
        before = channels
    names = [f"@network_level{number}" for number in range(1, len(network.features) + 1)]
    return {
        **levels,
        "network_mean": {"_target_": "torch.nn.AdaptiveAvgPool2d", "output_size": 1},
        "network_flatten": {"_target_": "torch.nn.Flatten"},
        "network_dropout": {"_target_": "torch.nn.Dropout", "p": network.dropout},
        "network_classify": {
            "_target_": "torch.nn.Linear",
            "in_features": before,
            "out_features": classes,
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
        "bias": False,  # the normalisation has one
        "act": "RELU",
        "norm": _normalisation(settings),
    }


def _normalisation(settings: ClassificationSettings) -> list[Any]:
    """MONAI's name and arguments; 8 divides the channels of every level of both networks."""
    name = settings.network.normalisation
    return [name, {"num_groups": _GROUPS} if name == "group" else {"affine": True}]


def _check(settings: ClassificationSettings) -> None:
    """Instance normalisation of a single place is 0 whatever was seen, and no picture has one."""
    dense = settings.network.name == "densenet121"
    least = 2 ** (6 if dense else len(settings.network.features) + 1)
    if settings.data.size < least:
        levels = "densenet121" if dense else f"{len(settings.network.features)} levels of features"
        raise UsageError(
            "bad-setting",
            f"setting data.size: {settings.data.size} pixels are too few for {levels}",
            "settings.json",
            f"set data.size to {least} or more" + ("" if dense else ", or take fewer levels"),
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
    """Collects the features of all X-rays that the network sees within.

    Args:
        network: of `network_config`, in any mode; dropout of `small` comes before the features, so
            they are the X-rays' own in evaluation mode alone.

    Yields:
        A list that grows by one tensor (N, features) for each call of the network, without
        gradient, on the network's device.
    """
    last = [layer for layer in network.modules() if isinstance(layer, torch.nn.Linear)][-1]
    found: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda layer, inputs: found.append(inputs[0].detach()))
    try:
        yield found
    finally:
        hook.remove()


def take_pretrained(state: State, fresh: State) -> dict[str, Tensor]:
    """Fits weights from elsewhere to a job's network, as far as they are of its architecture.

    Taken are our names and MONAI's, which are the same, and torchvision's of a DenseNet-121. A
    first convolution of three channels is summed to one, which is the same for an X-ray that is
    grey in all three. Where the last layer is of another number of classes it stays fresh. Counters
    of batches, which torchvision's older files lack, stay fresh too. Everything else is left as it
    is: whoever loads the result refuses what does not fit.

    Args:
        state: the weights, of any names and shapes.
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
    """Of a tensor of torchvision's DenseNet; another's stays."""
    if name.startswith("classifier."):
        return f"class_layers.out.{name.removeprefix('classifier.')}"
    return _DENSE_LAYER.sub(r"\1.layers.\2\3", name)
