"""Draws where a network looks: Grad-CAM over an X-ray.

Selvaraju et al., "Grad-CAM", ICCV 2017, in MONAI's implementation. Warm areas raised the logit of
the class. This proves nothing: the map is as coarse as the network's last level, and a network that
learned the hospital may well look at the lungs. Same network and X-ray, same bytes.
"""

import copy
import io

import numpy as np
import numpy.typing as npt
import torch
from monai.visualize import GradCAM
from PIL import Image
from torch import Tensor

from consortium.tasks.classification.networks import last_level

Array = npt.NDArray[np.float32]

MINIMUM_SIDE = 224
"""Smallest side of a picture, pixels."""

_RED, _YELLOW = (220.0, 30.0, 0.0), (255.0, 220.0, 60.0)
_STRONGEST = 0.65  # opacity of the overlay: the X-ray stays visible


def attention(network: torch.nn.Module, radiograph: Tensor, number: int) -> Tensor:
    """Where the network looks for a class: 0 to 1, (size, size), on the CPU; all 0 for nowhere.

    Args:
        network: a network of `consortium.tasks.classification.networks`; its mode, gradients and
            hooks are not changed.
        radiograph: a prepared X-ray, (1, size, size).
        number: number of the class.
    """
    # On a copy, for MONAI's hooks stay and it fills gradients.
    own = copy.deepcopy(network).eval().requires_grad_(True)
    device = next(own.parameters()).device
    camera = GradCAM(own, target_layers=last_level(own), postprocessing=lambda map_: map_)
    with torch.enable_grad():
        maps: Tensor = camera(radiograph[None].detach().to(device), class_idx=number)
    warmth = maps[0, 0].detach().cpu().float()
    return warmth / warmth.max() if warmth.max() > 0 else torch.zeros_like(warmth)


def draw_attention(network: torch.nn.Module, radiograph: Tensor, number: int) -> bytes:
    """Draws a PNG: the X-ray, and next to it the X-ray with the attention in warm colours.

    Args:
        network: see `attention`.
        radiograph: a prepared X-ray, (1, size, size); its lowest value is black, its highest white.
        number: number of the class.
    """
    side = radiograph.shape[-1] * -(-MINIMUM_SIDE // radiograph.shape[-1])
    values = radiograph[0].detach().cpu().float()
    span = (values.max() - values.min()).clamp(min=1e-6)
    grey = _enlarge((values - values.min()) / span, side)[..., None] * np.full(3, 255.0, np.float32)
    warmth = _enlarge(attention(network, radiograph, number), side)[..., None]
    colour = (1 - warmth) * np.array(_RED, np.float32) + warmth * np.array(_YELLOW, np.float32)
    share = _STRONGEST * warmth
    both = np.concatenate([grey, (1 - share) * grey + share * colour], axis=1)
    png = io.BytesIO()
    Image.fromarray(np.rint(both).astype(np.uint8)).save(png, "PNG")
    return png.getvalue()


def _enlarge(values: Tensor, side: int) -> Array:
    """Enlarges values from 0 to 1, (size, size), to (side, side)."""
    image = Image.fromarray(values.numpy())
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), np.float32).clip(0, 1)
