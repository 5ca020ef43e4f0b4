"""Preprocessing of files into tensors, and augmentation.

The preprocessing is one configured list of MONAI dictionary transforms: training, prediction and
the MONAI bundle run the same list. It is deterministic. Masks are split into one binary channel per
structure, then resampled linearly and thresholded at a half. Compared with nearest-neighbour
sampling, this raises the best Dice that a halved grid can reach on the LGG masks from 0.93 to 0.94
and shifts no border.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, get_args

import numpy as np
import torch
from monai.transforms import Compose, MapTransform, Randomizable

from consortium.core.config_builder import ConfigBuilder
from consortium.tasks.segmentation.settings import Data, Flip

AXES = [["L", "R"], ["P", "A"], ["I", "S"]]


def preprocessing_config(data: Data, keys: Sequence[str] = ("image",)) -> list[dict[str, Any]]:
    """The preprocessing as a MONAI bundle configuration.

    Normalisation precedes resampling, so that its statistics are those of the scanner's own voxels.

    Args:
        data: the job's data settings.
        keys: the first is the image, the others are masks. With the image alone, every target is
            MONAI's, so that the list runs without this package.

    Returns:
        Configurations of dictionary transforms in order; the first loads NIfTI.
    """
    image, masks = keys[0], list(keys[1:])
    every = [image, *masks]

    def per_key(of_image: Any, of_mask: Any) -> list[Any]:
        return [of_image, *[of_mask] * len(masks)]

    steps: list[dict[str, Any]] = [
        {
            "_target_": "monai.transforms.LoadImaged",
            "keys": every,
            "reader": "NibabelReader",
            "image_only": True,
            "ensure_channel_first": True,
        }
    ]
    if masks:
        steps.append(
            {
                "_target_": "consortium.tasks.segmentation.transforms.SplitStructuresd",
                "keys": masks,
                "structures": list(data.labels.values()),
            }
        )
    steps.append(
        {
            "_target_": "monai.transforms.Orientationd",
            "keys": every,
            "axcodes": "RAS",
            "labels": AXES,
        }
    )
    if data.intensity.startswith("zscore"):
        steps.append(
            {
                "_target_": "monai.transforms.NormalizeIntensityd",
                "keys": [image],
                "nonzero": data.intensity == "zscore-nonzero",
                "channel_wise": True,
            }
        )
    elif data.intensity == "percentiles":
        steps.append(
            {
                "_target_": "monai.transforms.ScaleIntensityRangePercentilesd",
                "keys": [image],
                "lower": 0.5,
                "upper": 99.5,
                "b_min": 0.0,
                "b_max": 1.0,
                "clip": True,
                "channel_wise": True,
            }
        )
    if data.spacing is not None:
        steps.append(
            {
                "_target_": "monai.transforms.Spacingd",
                "keys": every,
                "pixdim": data.spacing,
                "mode": per_key("bilinear", "bilinear"),
                "padding_mode": per_key("border", "border"),
            }
        )
    if data.spatial_dims == 2:
        steps.append(
            {
                "_target_": "monai.transforms.Resized",
                "keys": every,
                "spatial_size": [*data.size, -1],
                "mode": per_key("trilinear", "trilinear"),
                "anti_aliasing": per_key(True, False),
            }
        )
    steps.append(
        {"_target_": "monai.transforms.EnsureTyped", "keys": [image], "dtype": "$torch.float32"}
    )
    if masks:
        steps += [
            {"_target_": "monai.transforms.AsDiscreted", "keys": masks, "threshold": 0.5},
            {"_target_": "monai.transforms.EnsureTyped", "keys": masks, "dtype": "$torch.uint8"},
        ]
    return steps


def build_preprocessing(data: Data, with_label: bool) -> Compose:
    """Builds the preprocessing of {"image": path, "label": path}, NIfTI or DICOM.

    It is `preprocessing_config` with `LoadCased` for MONAI's loader, which does not read DICOM.

    Args:
        data: the job's data settings.
        with_label: whether there is a label to load.

    Returns:
        A transform that returns "image", MetaTensor float32 (C, X, Y, Z), and "label", uint8
        (L, X, Y, Z) of zeros and ones, both in RAS orientation; Z is the slice axis in 2-D.
    """
    keys = ("image", "label") if with_label else ("image",)
    config = preprocessing_config(data, keys)
    config[0] = {"_target_": "consortium.tasks.segmentation.loading.LoadCased", "keys": list(keys)}
    return Compose(ConfigBuilder({"preprocessing": config}).build("preprocessing"))


def build_augmentation(data: Data) -> Compose:
    """Builds the augmentation of a sample {"image": (C, X, Y[, Z]), "label": (L, X, Y[, Z])}.

    Args:
        data: the job's data settings; with `augment` false, the transform changes nothing.

    Returns:
        A transform of plain tensors; `set_random_state(seed=...)` makes it reproducible.
    """
    if not data.augment:
        return Compose([])
    flips = get_args(Flip) if data.augment is True else data.augment.flips
    axes = [axis for axis, name in enumerate(get_args(Flip)) if name in flips]
    return Compose([RandomGeometryd(axes=axes), RandomIntensityd()])


class SplitStructuresd(MapTransform):  # type: ignore[misc]
    """Splits masks of one channel into one binary float channel per structure.

    Args:
        keys: keys of the masks, each (1, X, Y, Z).
        structures: the mask values of each structure; structures may share values.
    """

    def __init__(self, keys: Sequence[str], structures: Sequence[Sequence[int]]) -> None:
        super().__init__(keys)
        self.structures = [list(values) for values in structures]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns `data` with masks of shape (structures, X, Y, Z)."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = torch.cat([_is_any(result[key], values) for values in self.structures])
        return result


class RandomGeometryd(Randomizable):  # type: ignore[misc]
    """Flips, rotates, scales and shifts "image" and "label" alike, with one resampling at most.

    Image (linear) and label (nearest) share one matrix and one sampling grid, which is several
    times faster than a chain of MONAI's transforms. The border of the sample is extended outwards.

    Args:
        axes: axes that may be flipped, of (right, front, up).
        flip: probability of a flip along each of these axes.
        affine: probability of rotation, scaling and translation together.
        rotation: largest angle about each axis, radians.
        scale: largest relative change of size.
        shift: largest translation, as a share of each axis.
    """

    def __init__(
        self,
        axes: Sequence[int] = (0, 1, 2),
        flip: float = 0.5,
        affine: float = 0.5,
        rotation: float = math.radians(15),
        scale: float = 0.15,
        shift: float = 0.08,
    ) -> None:
        self.axes, self.flip, self.affine = tuple(axes), flip, affine
        self.rotation, self.scale, self.shift = rotation, scale, shift

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns an augmented copy; the input tensors stay unchanged."""
        image, label = _plain(data["image"]), _plain(data["label"])
        dims = image.ndim - 1
        allowed = [axis for axis in range(dims) if axis in self.axes]
        flipped = [axis + 1 for axis in allowed if self.R.random() < self.flip]
        if flipped:
            image, label = image.flip(flipped), label.flip(flipped)
        if self.R.random() < self.affine:
            grid = torch.nn.functional.affine_grid(
                torch.from_numpy(self._matrix(tuple(image.shape[1:])))[None],
                [1, 1, *image.shape[1:]],
                align_corners=False,
            )
            image = _sample(image, grid, "bilinear")
            label = _sample(label.float(), grid, "nearest").to(label.dtype)
        return {**data, "image": image, "label": label}

    def _matrix(self, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """A random (dims, dims + 1) matrix in the coordinates of `affine_grid`."""
        dims = len(shape)
        linear = np.eye(dims)
        for first in range(dims):
            for second in range(first + 1, dims):
                angle = self.R.uniform(-self.rotation, self.rotation)
                rotation = np.eye(dims)
                rotation[first, first] = rotation[second, second] = math.cos(angle)
                rotation[first, second], rotation[second, first] = -math.sin(angle), math.sin(angle)
                linear = rotation @ linear
        linear *= self.R.uniform(1 - self.scale, 1 + self.scale)
        # affine_grid counts axes from the last, and each runs from -1 to 1 whatever its length.
        extent = np.array(shape[::-1], float)
        linear = linear * extent[None, :] / extent[:, None]
        shift = self.R.uniform(-2 * self.shift, 2 * self.shift, dims)
        return np.concatenate([linear, shift[:, None]], 1).astype(np.float32)


class RandomIntensityd(Randomizable):  # type: ignore[misc]
    """Changes contrast and brightness of each channel of "image", and its gamma and noise.

    Args:
        scale: largest relative change of contrast.
        shift: largest change of brightness, in the image's unit (standard deviations after a
            z-score).
        gamma: probability of a gamma between 0.75 and 1.33 over the channel's range.
        noise: probability of Gaussian noise.
        sigma: largest standard deviation of the noise.
    """

    def __init__(
        self,
        scale: float = 0.1,
        shift: float = 0.1,
        gamma: float = 0.2,
        noise: float = 0.15,
        sigma: float = 0.1,
    ) -> None:
        self.scale, self.shift, self.gamma, self.noise, self.sigma = (
            scale,
            shift,
            gamma,
            noise,
            sigma,
        )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns an augmented copy; the input tensor stays unchanged."""
        image = _plain(data["image"])
        column = (-1, *[1] * (image.ndim - 1))
        if self.R.random() < self.gamma:
            low = image.flatten(1).amin(1).view(column)
            span = (image.flatten(1).amax(1).view(column) - low).clamp(min=1e-6)
            power = math.exp(self.R.uniform(-math.log(4 / 3), math.log(4 / 3)))
            image = ((image - low) / span).pow(power) * span + low
        factors = self.R.uniform(1 - self.scale, 1 + self.scale, len(image))
        shifts = self.R.uniform(-self.shift, self.shift, len(image))
        image = image * image.new_tensor(factors).view(column) + image.new_tensor(shifts).view(
            column
        )
        if self.R.random() < self.noise:
            sigma = self.R.uniform(0, self.sigma)
            noise = self.R.standard_normal(tuple(image.shape)).astype(np.float32)
            image = image + sigma * torch.from_numpy(noise)
        return {**data, "image": image}


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """Strips MONAI's metadata, which makes every operation many times slower."""
    return tensor.as_subclass(torch.Tensor)


def _is_any(mask: torch.Tensor, values: Sequence[int]) -> torch.Tensor:
    matches = mask == values[0]
    for value in values[1:]:
        matches = matches | (mask == value)
    return matches.float()


def _sample(tensor: torch.Tensor, grid: torch.Tensor, mode: str) -> torch.Tensor:
    return torch.nn.functional.grid_sample(
        tensor[None], grid, mode=mode, padding_mode="border", align_corners=False
    )[0]
