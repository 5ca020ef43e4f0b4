"""Preprocesses X-rays for the network, and augments them in training.

The preprocessing is one list of MONAI dictionary transforms, written as configuration. `prepare`,
which training and prediction use, runs the same list as the MONAI bundle, except for the loading.
It is deterministic. X-rays of 8 bits, of 16 bits and of greys from 0 to 1 give the same result, for
the greys are scaled to 0..1 first. The result is always square: the aspect ratio is not kept, so a
chest is stretched according to the X-ray's collimation.
"""

import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.transforms import Compose
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from consortium.core.config_builder import ConfigBuilder
from consortium.core.errors import UsageError
from consortium.tasks.classification.settings import Radiographs

Array = npt.NDArray[np.float32]
Profile = npt.NDArray[np.float64]

KEY = "image"

TURN = math.radians(7)
SHIFT = 0.05
ZOOM = 1.1
CONTRAST = 1.25
BRIGHTNESS = 0.2
"""Largest changes in training: radians; a share of the side; factors, up or down; a share of the
X-ray's standard deviation."""

_BINS = 256  # of greys, between which MONAI's equalisation is linear
_INTENSITIES = {
    "zscore": "$lambda image: (image - image.mean()) / image.std(correction=0).clamp(min=1e-6)",
    "percentiles": "$lambda image: ((image - image.quantile(0.01)) / (image.quantile(0.99)"
    " - image.quantile(0.01)).clamp(min=1e-6)).clamp(0, 1)",
}

# For `lung_box`: the grid, and where a limit may lie, as shares of the X-ray.
_GRID = 96
_FRAME = 4  # cells, often of white or black lines
_SIDE, _ABOVE, _BELOW = 0.04, 0.05, 0.08  # beyond half-way, for the lungs narrow to their ends
_TOP, _LEFT, _BOTTOM, _RIGHT = (0.0, 0.25), (0.0, 0.25), (0.6, 1.0), (0.75, 1.0)


def preprocessing_config(data: Radiographs) -> list[dict[str, Any]]:
    """The preprocessing of {"image": path} as MONAI bundle configuration.

    Args:
        data: the job's data settings.

    Returns:
        Configurations of dictionary transforms in order, which run without this package. The first
        loads a PNG or JPEG file that is bright where the body is dense; the last gives a tensor
        float32 (1, size, size), rows from head to feet.

    Raises:
        UsageError: `needs-consortium` if only the box of the lungs is kept: MONAI alone cannot
            find it.
    """
    if data.lungs:
        raise UsageError(
            "needs-consortium",
            "MONAI alone cannot find the box of the lungs",
            "setting data.lungs",
            "use consortium predict",
        )
    load = {
        "_target_": "monai.transforms.LoadImaged",
        "keys": [KEY],
        "reader": "PILReader",
        "image_only": True,
        "ensure_channel_first": True,
        "reverse_indexing": False,
        "converter": "$lambda image: __import__('PIL.ImageOps').ImageOps.exif_transpose(image)"
        ".convert('I')",
    }
    return [load, *_crop(data.border), *_intensity(data.size, data.intensity)]


def prepare(values: Array, data: Radiographs) -> Array:
    """What a network sees of an X-ray.

    Args:
        values: greys of shape (rows, columns), float32, bright is dense.
        data: the job's data settings.

    Returns:
        float32 (size, size); for an X-ray of one grey all 0, with `equalise` all 0.5.
    """
    radiograph = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))[None]
    crop, intensity = _composed(data.border, data.size, data.intensity)
    radiograph = crop({KEY: radiograph})[KEY]
    if data.lungs:
        top, left, bottom, right = lung_box(radiograph[0].numpy())
        radiograph = radiograph[:, top:bottom, left:right]
    prepared: Array = intensity({KEY: radiograph})[KEY][0].numpy()
    return prepared


def augment(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Turns, shifts and zooms every X-ray and changes its contrast and brightness, at random.

    No X-ray is mirrored: the heart is on the left. Beyond an X-ray its border pixels continue.

    Args:
        batch: prepared X-rays (n, 1, size, size); not changed.
        generator: on the CPU; the changes depend on it and on n alone.
    """
    count = len(batch)
    # Each from -1 to 1: turn, zoom, shift across and down, contrast, brightness.
    turn, zoom, across, down, contrast, brightness = (
        (2 * torch.rand(6, count, generator=generator) - 1).to(batch.device).unbind()
    )
    angle, scale = TURN * turn, torch.exp(math.log(ZOOM) * zoom)
    cosine, sine = torch.cos(angle) / scale, torch.sin(angle) / scale
    # The sampling grid runs from -1 to 1: a share of the side is twice that.
    rows = [cosine, -sine, 2 * SHIFT * across, sine, cosine, 2 * SHIFT * down]
    grid = torch.nn.functional.affine_grid(
        torch.stack(rows, 1).view(count, 2, 3), list(batch.shape), align_corners=False
    )
    moved = torch.nn.functional.grid_sample(
        batch, grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    mean, deviation = (
        statistic.view(count, 1, 1, 1)
        for statistic in (moved.flatten(1).mean(1), moved.flatten(1).std(1, correction=0))
    )
    factor = torch.exp(math.log(CONTRAST) * contrast).view(count, 1, 1, 1)
    brighter = BRIGHTNESS * deviation * brightness.view(count, 1, 1, 1)
    changed: Tensor = (moved - mean) * factor + mean + brighter
    return changed


def _crop(border: float) -> list[dict[str, Any]]:
    if not border:
        return []
    return [
        {
            "_target_": "monai.transforms.CenterScaleCropd",
            "keys": [KEY],
            "roi_scale": round(1 - 2 * border, 6),
        }
    ]


def _intensity(size: int, intensity: str) -> list[dict[str, Any]]:
    """The transforms after the crop; scaling the range turns an X-ray of one grey to all 0."""
    resize = (
        f"$lambda image: torch.nn.functional.interpolate(image[None], size=({size}, {size}),"
        " mode='bilinear', antialias=True)[0]"
    )
    if intensity == "equalise":
        last = {
            "_target_": "monai.transforms.HistogramNormalized",
            "keys": [KEY],
            "num_bins": _BINS,
            "min": 0,
            "max": 1,
        }
    else:
        last = _function(_INTENSITIES[intensity])
    return [
        {"_target_": "monai.transforms.EnsureTyped", "keys": [KEY], "track_meta": False},
        {"_target_": "monai.transforms.ScaleIntensityd", "keys": [KEY], "minv": 0.0, "maxv": 1.0},
        _function(resize),
        last,
        {
            "_target_": "monai.transforms.EnsureTyped",
            "keys": [KEY],
            "dtype": "$torch.float32",
            "track_meta": False,
        },
    ]


def _function(expression: str) -> dict[str, Any]:
    return {
        "_target_": "monai.transforms.Lambdad",
        "keys": [KEY],
        "func": expression,
        "track_meta": False,
    }


@lru_cache(maxsize=8)
def _composed(border: float, size: int, intensity: str) -> tuple[Compose, Compose]:
    """The transforms in two parts; the box of the lungs is cut out between them."""
    builder = ConfigBuilder({"crop": _crop(border), "intensity": _intensity(size, intensity)})
    crop, rest = (Compose(builder.build(name)) for name in ("crop", "intensity"))
    return crop, rest


def lung_box(values: Array) -> tuple[int, int, int, int]:
    """Finds the box of the lungs on a frontal X-ray: top, left, bottom, right in pixels.

    The profile of the middle rows has two dark fields, left and right of the bright middle. From
    the darkest point of each, the box extends outwards to where the profile has risen half-way to
    the chest wall. The rows of the two fields give top and bottom: from the darkest row, half-way
    to the shoulders and half-way to the belly. Every limit is clamped to a plausible range, so
    there is always a box.

    The box makes X-rays of different collimation alike and cuts off markers and text. It does not
    outline the lungs: where a lung is as white as the belly, its edge is missed.

    Args:
        values: greys of shape (rows, columns), in any unit, bright is dense.

    Returns:
        The limits of a slice: bottom and right are the first row and column outside.
    """
    rows, columns = values.shape
    small = _small(values)
    across = _smooth(small[int(0.3 * _GRID) : int(0.65 * _GRID)].mean(0))
    fields = _darkest(across, 0.12, 0.45), _darkest(across, 0.55, 0.88)
    left = _rise(across, fields[0], -1, _LEFT, _SIDE)
    right = _rise(across, fields[1], 1, _RIGHT, _SIDE)
    width = int(0.06 * _GRID)
    strips = [small[:, max(0, field - width) : field + width + 1] for field in fields]
    down = _smooth(np.concatenate(strips, axis=1).mean(1))
    darkest = _darkest(down, 0.2, 0.6)
    top, bottom = _rise(down, darkest, -1, _TOP, _ABOVE), _rise(down, darkest, 1, _BOTTOM, _BELOW)
    return (
        math.floor(top * rows),
        math.floor(left * columns),
        math.ceil(bottom * rows),
        math.ceil(right * columns),
    )


def _small(values: Array) -> Profile:
    radiograph = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))[None, None]
    small = torch.nn.functional.interpolate(
        radiograph, (_GRID, _GRID), mode="bilinear", antialias=True
    )
    return small[0, 0].double().numpy()


def _smooth(profile: Profile) -> Profile:
    smooth: Profile = gaussian_filter1d(profile, 0.02 * _GRID, mode="nearest")
    return smooth


def _darkest(profile: Profile, start: float, stop: float) -> int:
    first = int(start * _GRID)
    return first + int(profile[first : int(stop * _GRID)].argmin())


def _rise(
    profile: Profile, start: int, step: int, limits: tuple[float, float], margin: float
) -> float:
    """Where a profile, going outwards, has last risen half-way to its largest value; a share."""
    outwards = profile[start:-_FRAME] if step > 0 else profile[start : _FRAME - 1 : -1]
    wall = int(outwards.argmax())
    half = (outwards[0] + outwards[wall]) / 2
    away = wall - int((outwards[wall::-1] < half).argmax())
    position = (start + step * away + 0.5) / _GRID + step * margin
    return min(max(position, limits[0]), limits[1])
