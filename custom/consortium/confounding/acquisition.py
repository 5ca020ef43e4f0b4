"""Acquisition features: eight numbers of an image's border, histogram and sharpness.

Use them next to a model's scores, to test whether hospitals can be distinguished by how their
images were made. They miss marks of a scanner that change none of the eight. They are not free of
anatomy: a large heart or a dense lung also changes a histogram.
"""

import numpy as np
import numpy.typing as npt

from consortium.confounding.moments import Array

NAMES = (
    "sides",
    "top and bottom",
    "border spread",
    "border peak",
    "dark",
    "median",
    "contrast",
    "sharpness",
)
"""Names of the eight numbers: mean grey of the left and right borders, and of the upper and lower
ones; standard deviation and 99th percentile of the whole border; 5th percentile, median and
interquartile range of the image; logarithm of the fine detail over the range of grey."""


def acquisition_features(image: npt.NDArray[np.uint8] | Array, *, width: float = 0.06) -> Array:
    """Computes eight numbers near 1, in the order of `NAMES`.

    Args:
        image: grey, of shape (rows, columns), at least 3 by 3, from 0 to 255.
        width: width of the border, as a share of the side.

    Returns:
        Array of shape (8,).

    Raises:
        ValueError: the image is not grey, or too small.
    """
    if image.ndim != 2 or min(image.shape) < 3:
        raise ValueError(f"an image of shape {image.shape}")
    grey = np.asarray(image, float) / 255
    rows, columns = (max(1, round(width * side)) for side in grey.shape)
    sides = np.concatenate([grey[:, :columns].ravel(), grey[:, -columns:].ravel()])
    ends = np.concatenate([grey[:rows].ravel(), grey[-rows:].ravel()])
    border = np.concatenate([sides, ends])
    low, first, median, third, high = np.quantile(grey, [0.05, 0.25, 0.5, 0.75, 0.95])
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    fine = grey[1:-1, 1:-1] - around / 4
    return np.array(
        [
            sides.mean(),
            ends.mean(),
            border.std(),
            np.quantile(border, 0.99),
            low,
            median,
            third - first,
            np.log(1e-3 + fine.std() / (high - low + 1e-3)) + 3,
        ]
    )
