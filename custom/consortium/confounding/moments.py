"""What a hospital says of a group of its patients: how many, their mean, and their scatter.

These are all that the confounding probe needs, so no image and no patient's values leave a
hospital. What always holds: a group smaller than the hospital lets out is not told at all, and a
vector has fewer entries than the smallest group has patients, for otherwise the scatter would fix
the patients' values up to a rotation. What it does not protect: a mean and a scatter are exact, so
two messages about groups that differ by one patient give that patient away; a group is told once.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

LIMIT = 6.0
"""Values are clipped to +-LIMIT, in their own unit, so that no single patient carries a test."""

_SLACK = 1e-6  # of rounding, relative


@dataclass(frozen=True, slots=True)
class Moments:
    """A group of patients.

    Attributes:
        count: how many patients, at least 1.
        mean: of shape (d,), within +-`LIMIT`.
        scatter: of shape (d, d), the sum over patients of the outer product of their distance from
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
            raise ValueError("moments of shapes that do not fit")
        if not (np.isfinite(self.mean).all() and np.isfinite(self.scatter).all()):
            raise ValueError("moments that are not finite")
        most = self.count * LIMIT**2 * (1 + _SLACK)
        diagonal = np.diag(self.scatter)
        if (
            (np.abs(self.mean) > LIMIT * (1 + _SLACK)).any()
            or (diagonal < 0).any()
            or (diagonal > most).any()
            or not np.allclose(self.scatter, self.scatter.T, rtol=_SLACK, atol=_SLACK)
        ):
            raise ValueError("moments that no group of clipped values has")
        if size and np.linalg.eigvalsh(self.scatter).min() < -_SLACK * most:
            raise ValueError("a scatter that no group has")


@dataclass(frozen=True, slots=True)
class Group:
    """Whose moments: a hospital's patients with one label."""

    hospital: str
    label: str


Groups = Mapping[Group, Moments]


def moments(values: Array, patients: Sequence[Hashable], smallest_group: int) -> Moments | None:
    """The moments of one group, or None where it has too few patients.

    A patient with several images counts once, by their mean: images of one patient are not
    exchangeable with those of others, patients are.

    Args:
        values: of shape (images, d), finite; clipped to +-`LIMIT` here.
        patients: of each image.
        smallest_group: fewest patients of whom anything is told.

    Raises:
        ValueError: as many dimensions as the smallest group has patients, or more; values that are
            not finite; as many patients as images are not named.
    """
    if values.shape[1] >= smallest_group:
        raise ValueError(f"{values.shape[1]} dimensions of groups of {smallest_group}")
    if len(patients) != len(values):
        raise ValueError(f"{len(patients)} patients named for {len(values)} images")
    if not np.isfinite(values).all():
        raise ValueError("values that are not finite")
    numbers = {name: number for number, name in enumerate(dict.fromkeys(patients))}
    if len(numbers) < smallest_group:
        return None
    where = np.array([numbers[name] for name in patients])
    sums = np.zeros((len(numbers), values.shape[1]))
    np.add.at(sums, where, np.clip(values, -LIMIT, LIMIT))
    means = sums / np.bincount(where)[:, None]
    mean: Array = means.mean(0)
    apart = means - mean
    return Moments(len(numbers), mean, apart.T @ apart)


def project(features: Array, dimensions: int, seed: int) -> Array:
    """Features of a network on few directions that everyone knows: a seeded random projection.

    Rows are scaled to unit length first, which bounds them whatever the network is. The directions
    are orthonormal (Johnson and Lindenstrauss, 1984; Dasgupta and Gupta, "An elementary proof of a
    theorem of Johnson and Lindenstrauss", 2003), and the result is scaled by the root of n, so that
    an entry is near 1.

    Args:
        features: of shape (images, n).
        dimensions: how many are kept, at most n.
        seed: of the directions, the same at every hospital.

    Returns:
        Of shape (images, min(dimensions, n)).
    """
    wide = features.shape[1]
    drawn = np.random.default_rng(seed).normal(size=(wide, min(dimensions, wide)))
    directions, _ = np.linalg.qr(drawn)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    projected: Array = features / np.maximum(lengths, 1e-12) @ directions * np.sqrt(wide)
    return projected


def collect(
    values: Array,
    hospitals: npt.NDArray[np.str_],
    labels: npt.NDArray[np.str_],
    patients: Sequence[Hashable],
    smallest_group: int,
) -> dict[Group, Moments]:
    """The moments that all hospitals would tell: for simulations, which hold every patient.

    Args:
        values: of shape (images, d).
        hospitals: of each image; likewise `labels` and `patients`.
        labels: see there.
        patients: unique within a hospital.
        smallest_group: see `moments`.
    """
    found = {}
    for hospital in np.unique(hospitals):
        for label in np.unique(labels):
            chosen = np.flatnonzero((hospitals == hospital) & (labels == label)).tolist()
            told = moments(values[chosen], [patients[index] for index in chosen], smallest_group)
            if told is not None:
                found[Group(str(hospital), str(label))] = told
    return found


def describe_p(p: float) -> str:
    """A p-value in words."""
    return "p < 0.001" if p < 0.001 else f"p {p:.2g}"
