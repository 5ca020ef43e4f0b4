"""Moments of a group of a hospital's patients: their number, mean and scatter.

The confounding probe needs nothing else, so no image and no patient's values leave a hospital. A
group below the hospital's minimum group size is never reported. A vector always has fewer entries
than the smallest group has patients; otherwise the scatter would determine the patients' values up
to a rotation. Means and scatters are exact, so the moments of two groups that differ by one patient
would reveal that patient; each group is therefore reported once.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

LIMIT = 6.0
"""Values are clipped to +-LIMIT, in their own unit, so that no single patient decides a test."""

_SLACK = 1e-6  # relative tolerance for rounding


@dataclass(frozen=True, slots=True)
class Moments:
    """Moments of a group of patients.

    Attributes:
        count: number of patients, at least 1.
        mean: shape (d,), within +-`LIMIT`.
        scatter: shape (d, d), the sum over patients of the outer product of their difference from
            the mean; symmetric, no eigenvalue below 0, a diagonal from 0 to count * `LIMIT`^2.

    Raises:
        ValueError: shapes that do not fit, or values that no group can have.
    """

    count: int
    mean: Array
    scatter: Array

    def __post_init__(self) -> None:
        size = len(self.mean)
        if self.count < 1 or self.mean.shape != (size,) or self.scatter.shape != (size, size):
            raise ValueError("the shapes of the moments do not fit")
        if not (np.isfinite(self.mean).all() and np.isfinite(self.scatter).all()):
            raise ValueError("the moments are not finite")
        most = self.count * LIMIT**2 * (1 + _SLACK)
        diagonal = np.diag(self.scatter)
        if (
            (np.abs(self.mean) > LIMIT * (1 + _SLACK)).any()
            or (diagonal < 0).any()
            or (diagonal > most).any()
            or not np.allclose(self.scatter, self.scatter.T, rtol=_SLACK, atol=_SLACK)
        ):
            raise ValueError("no group of clipped values has these moments")
        if size and np.linalg.eigvalsh(self.scatter).min() < -_SLACK * most:
            raise ValueError("no group has this scatter")


@dataclass(frozen=True, slots=True)
class Group:
    """A hospital's patients with one label."""

    hospital: str
    label: str


Groups = Mapping[Group, Moments]


def moments(values: Array, patients: Sequence[Hashable], smallest_group: int) -> Moments | None:
    """Computes the moments of one group; None if it has too few patients.

    A patient with several images counts once, by the mean of the images: patients are exchangeable,
    images of different patients are not.

    Args:
        values: shape (images, d), finite; clipped to +-`LIMIT` here.
        patients: the patient of each image.
        smallest_group: minimum number of patients in a group that is reported.

    Raises:
        ValueError: at least as many dimensions as patients in the smallest group, values that are
            not finite, or not one patient for each image.
    """
    if values.shape[1] >= smallest_group:
        raise ValueError(f"{values.shape[1]} dimensions need groups larger than {smallest_group}")
    if len(patients) != len(values):
        raise ValueError(f"{len(values)} images need as many patients, not {len(patients)}")
    if not np.isfinite(values).all():
        raise ValueError("the values are not finite")
    numbers = {name: number for number, name in enumerate(dict.fromkeys(patients))}
    if len(numbers) < smallest_group:
        return None
    where = np.array([numbers[name] for name in patients])
    sums = np.zeros((len(numbers), values.shape[1]))
    np.add.at(sums, where, np.clip(values, -LIMIT, LIMIT))
    means = sums / np.bincount(where)[:, None]
    mean: Array = means.mean(0)
    centred = means - mean
    return Moments(len(numbers), mean, centred.T @ centred)


def project(features: Array, dimensions: int, seed: int) -> Array:
    """Projects a network's features onto a few random directions, which the seed defines.

    Rows are scaled to unit length first, which bounds them for every network. The directions are
    orthonormal (Johnson and Lindenstrauss, 1984; Dasgupta and Gupta, "An elementary proof of a
    theorem of Johnson and Lindenstrauss", 2003), and the result is scaled by the root of n, so that
    an entry is near 1.

    Args:
        features: shape (images, n).
        dimensions: number of directions, at most n.
        seed: seed of the directions, the same at every hospital.

    Returns:
        Array of shape (images, min(dimensions, n)).
    """
    width = features.shape[1]
    drawn = np.random.default_rng(seed).normal(size=(width, min(dimensions, width)))
    directions, _ = np.linalg.qr(drawn)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    projected: Array = features / np.maximum(lengths, 1e-12) @ directions * np.sqrt(width)
    return projected


def collect(
    values: Array,
    hospitals: npt.NDArray[np.str_],
    labels: npt.NDArray[np.str_],
    patients: Sequence[Hashable],
    smallest_group: int,
) -> dict[Group, Moments]:
    """Computes the moments that all hospitals would report, for simulations with all patients.

    Args:
        values: shape (images, d).
        hospitals: the hospital of each image.
        labels: the label of each image.
        patients: the patient of each image, unique within a hospital.
        smallest_group: see `moments`.
    """
    groups = {}
    for hospital in np.unique(hospitals):
        for label in np.unique(labels):
            chosen = np.flatnonzero((hospitals == hospital) & (labels == label)).tolist()
            group = moments(values[chosen], [patients[index] for index in chosen], smallest_group)
            if group is not None:
                groups[Group(str(hospital), str(label))] = group
    return groups


def describe_p(p: float) -> str:
    """Formats a p-value."""
    return "p < 0.001" if p < 0.001 else f"p {p:.2g}"
