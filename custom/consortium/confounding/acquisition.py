"""What an image shows of its making: eight numbers of its border, its histogram and its sharpness.

When to use it: beside a model's scores, to see whether hospitals can be told apart by how their
images were made. What it does not show: marks of a scanner that lie in none of the eight; and it is
not free of anatomy, for a large heart or a dense lung changes a histogram too.
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
"""Of the eight numbers: mean grey of the borders left and right, and above and below; standard
deviation and 99th percentile of the whole border; 5th percentile, median and distance of the
quartiles of the image; logarithm of the fine detail over the range of grey."""


def acquisition_features(image: npt.NDArray[np.uint8] | Array, *, width: float = 0.06) -> Array:
    """Eight numbers near 1, in the order of `NAMES`.

    Args:
        image: grey, of shape (rows, columns), at least 3 by 3, from 0 to 255.
        width: of the border, as a share of the side.

    Returns:
        Of shape (8,).

    Raises:
        ValueError: not a grey image, or too small.
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
