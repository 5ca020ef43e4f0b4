"""Pictures of where a network looks: Grad-CAM over an X-ray.

Selvaraju et al., "Grad-CAM", ICCV 2017, as MONAI has it. A warm place raised the logit of the class
that was asked for. What it is not: a proof. The map is as coarse as the network's last level, and a
network that learned the hospital may well look at the lungs. Same network and X-ray, same bytes.
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

LEAST = 224
"""Pixels of a picture's side, or more."""

_RED, _YELLOW = (220.0, 30.0, 0.0), (255.0, 220.0, 60.0)
_STRONGEST = 0.65  # of the overlay: the X-ray stays to be seen


def attention(network: torch.nn.Module, radiograph: Tensor, number: int) -> Tensor:
    """Where the network looks for a class: 0 to 1, (size, size), on the CPU; all 0 for nowhere.

    Args:
        network: of `consortium.tasks.classification.networks`; left as it is, with its mode,
            gradients and hooks.
        radiograph: prepared, (1, size, size).
        number: of the class.
    """
    # MONAI's hooks stay, and it fills gradients: those of a copy.
    own = copy.deepcopy(network).eval().requires_grad_(True)
    device = next(own.parameters()).device
    camera = GradCAM(own, target_layers=last_level(own), postprocessing=lambda found: found)
    with torch.enable_grad():
        found: Tensor = camera(radiograph[None].detach().to(device), class_idx=number)
    warmth = found[0, 0].detach().cpu().float()
    return warmth / warmth.max() if warmth.max() > 0 else torch.zeros_like(warmth)


def draw_attention(network: torch.nn.Module, radiograph: Tensor, number: int) -> bytes:
    """A PNG of the X-ray, and beside it the same one with what the network looks at in warm colour.

    Args:
        network: see `attention`.
        radiograph: prepared, (1, size, size); its least value is drawn black, its largest white.
        number: of the class.
    """
    side = radiograph.shape[-1] * -(-LEAST // radiograph.shape[-1])
    values = radiograph[0].detach().cpu().float()
    span = (values.max() - values.min()).clamp(min=1e-6)
    grey = _enlarge((values - values.min()) / span, side)[..., None] * np.full(3, 255.0, np.float32)
    warmth = _enlarge(attention(network, radiograph, number), side)[..., None]
    colour = (1 - warmth) * np.array(_RED, np.float32) + warmth * np.array(_YELLOW, np.float32)
    share = _STRONGEST * warmth
    both = np.concatenate([grey, (1 - share) * grey + share * colour], axis=1)
    written = io.BytesIO()
    Image.fromarray(np.rint(both).astype(np.uint8)).save(written, "PNG")
    return written.getvalue()


def _enlarge(values: Tensor, side: int) -> Array:
    """Of 0 to 1, (size, size) to (side, side)."""
    image = Image.fromarray(values.numpy())
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), np.float32).clip(0, 1)
