"""Compares affines and aligns volumes to a grid, whatever the order of their axes."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

from consortium.core.findings import Finding

GRID_TOLERANCE = 0.1
"""Maximum distance between the corners of two volumes on the same grid, in units of the smallest
voxel spacing. Rounding in headers of different programs is far below it."""


def corner_distance(
    shape: Sequence[int], affine: NDArray[np.float64], other: NDArray[np.float64]
) -> float:
    """The largest distance between a volume's corners under two affines, in mm."""
    corners = np.array([[*c, 1] for c in itertools.product(*((0, n - 1) for n in shape[:3]))])
    return float(np.linalg.norm(corners @ (affine - other).T, axis=1).max())


def same_grid(
    shape: Sequence[int], affine: NDArray[np.float64], other: NDArray[np.float64]
) -> bool:
    """Whether two affines place a volume alike, within `GRID_TOLERANCE`."""
    smallest = float(min(voxel_sizes(affine)))
    return corner_distance(shape, affine, other) <= GRID_TOLERANCE * smallest


@dataclass(frozen=True, slots=True)
class Placement:
    """The position of a volume on a larger grid, voxel on voxel.

    Attributes:
        axes: the volume's axes, in the order of the grid's.
        flipped: the grid's axes along which the volume runs backwards.
        start: first voxel of the grid that the volume covers, along each axis.
        size: number of voxels that it covers, along each axis.
    """

    axes: tuple[int, ...]
    flipped: tuple[int, ...]
    start: tuple[int, ...]
    size: tuple[int, ...]

    def __call__(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """A view of the voxels with the grid's axes."""
        return np.flip(voxels.transpose(self.axes), self.flipped)

    @property
    def region(self) -> tuple[slice, ...]:
        """The part of an array on the grid that the volume covers."""
        return tuple(slice(a, a + n) for a, n in zip(self.start, self.size, strict=True))


def find_placement(
    shape: Sequence[int],
    affine: NDArray[np.float64],
    onto: Sequence[int],
    grid: NDArray[np.float64],
) -> Placement | None:
    """Finds the position of a volume on a grid, whatever the order and direction of its axes.

    Args:
        shape: voxels of the volume along each of its three axes.
        affine: 4 x 4, the volume's voxel to mm.
        onto: voxels of the grid along each of its three axes.
        grid: 4 x 4, the grid's voxel to mm.

    Returns:
        None if a voxel lies outside the grid or off its voxels by more than `GRID_TOLERANCE`.
    """
    exact = np.linalg.solve(grid, affine)
    snapped = np.rint(exact)
    turn = np.abs(snapped[:3, :3])
    if not ((turn.sum(0) == 1).all() and (turn.sum(1) == 1).all()):
        return None
    if not same_grid(shape, affine, grid @ snapped):
        return None
    axes = tuple(int(axis) for axis in turn.argmax(1))
    size = tuple(int(shape[axis]) for axis in axes)
    first = snapped[:3, 3]
    last = snapped @ [*(n - 1 for n in shape), 1]
    start = tuple(int(min(a, b)) for a, b in zip(first, last[:3], strict=True))
    if any(a < 0 or a + n > m for a, n, m in zip(start, size, onto, strict=True)):
        return None
    flipped = tuple(i for i, axis in enumerate(axes) if snapped[i, axis] < 0)
    return Placement(axes, flipped, start, size)


def align_to_grid(
    voxels: NDArray[Any],
    affine: NDArray[np.float64],
    shape: Sequence[int],
    grid: NDArray[np.float64],
) -> NDArray[Any] | None:
    """Reorders a mask to the axes of its image, if both have the same voxels in space.

    Programs write the same volume with axes in another order or direction: a mask often runs from
    foot to head where the DICOM series that it was drawn on runs from head to foot.

    Args:
        voxels: the mask, (x, y, slice).
        affine: the mask's affine.
        shape: shape of the image.
        grid: the image's affine.

    Returns:
        A view of the mask of shape `shape`, or None if the grids differ.
    """
    placement = find_placement(voxels.shape, affine, shape, grid)
    return placement(voxels) if placement and placement.size == tuple(shape) else None


@dataclass(frozen=True, slots=True)
class Volume:
    """The voxels of a NIfTI file or a DICOM series, or of one such file for each channel.

    Attributes:
        file: path relative to the hospital's folder.
        voxels: array (x, y, slice) or (x, y, slice, channel), in the type of the file; float32
            if the header scales it.
        affine: 4 x 4, voxel to mm; finite and invertible.
        reference: UID of DICOM's frame of reference; empty if the file has none.
        notes: warnings about the file.
    """

    file: str
    voxels: NDArray[Any]
    affine: NDArray[np.float64]
    reference: str = ""
    notes: tuple[Finding, ...] = ()

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distances between voxels along x, y and z, in mm."""
        return tuple(float(size) for size in voxel_sizes(self.affine))
