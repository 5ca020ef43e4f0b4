"""Where voxels lie: affines compared, and volumes laid on one grid whatever their axes."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

from consortium.core.findings import Finding

GRID_TOLERANCE = 0.1
"""How far a corner of a volume may lie from another's on the same grid, in units of the smallest
voxel spacing. Headers written by different programs differ by rounding, far less than that."""


def corners_apart(
    shape: Sequence[int], affine: NDArray[np.float64], other: NDArray[np.float64]
) -> float:
    """The largest distance of a volume's corners under two affines, in mm."""
    corners = np.array([[*c, 1] for c in itertools.product(*((0, n - 1) for n in shape[:3]))])
    return float(np.linalg.norm(corners @ (affine - other).T, axis=1).max())


def one_grid(shape: Sequence[int], affine: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Whether two affines place a volume alike, within `GRID_TOLERANCE`."""
    smallest = float(min(voxel_sizes(affine)))
    return corners_apart(shape, affine, other) <= GRID_TOLERANCE * smallest


@dataclass(frozen=True, slots=True)
class Placement:
    """How the axes of a volume lie on a larger grid, voxel on voxel.

    Attributes:
        axes: of the volume, in the order of the grid's.
        flipped: the grid's axes along which the volume runs backwards.
        start: the first voxel of the grid that the volume covers, along each axis.
        size: voxels that it covers, along each axis.
    """

    axes: tuple[int, ...]
    flipped: tuple[int, ...]
    start: tuple[int, ...]
    size: tuple[int, ...]

    def __call__(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """The voxels with the grid's axes; a view."""
        return np.flip(voxels.transpose(self.axes), self.flipped)

    @property
    def where(self) -> tuple[slice, ...]:
        """What the volume covers of an array on the grid."""
        return tuple(slice(a, a + n) for a, n in zip(self.start, self.size, strict=True))


def place(
    shape: Sequence[int],
    affine: NDArray[np.float64],
    onto: Sequence[int],
    grid: NDArray[np.float64],
) -> Placement | None:
    """Finds where a volume's voxels lie among a grid's, whatever the order and sense of its axes.

    Args:
        shape: three numbers of voxels.
        affine: 4 x 4, the volume's voxel to mm.
        onto: three numbers of voxels of the grid.
        grid: 4 x 4, the grid's voxel to mm.

    Returns:
        None where a voxel lies beside the grid, or between its voxels by `GRID_TOLERANCE`.
    """
    exact = np.linalg.solve(grid, affine)
    snapped = np.rint(exact)
    turn = np.abs(snapped[:3, :3])
    if not ((turn.sum(0) == 1).all() and (turn.sum(1) == 1).all()):
        return None
    if not one_grid(shape, affine, grid @ snapped):
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


def on_grid(
    voxels: NDArray[Any],
    affine: NDArray[np.float64],
    shape: Sequence[int],
    grid: NDArray[np.float64],
) -> NDArray[Any] | None:
    """A mask with the axes of its image, where both have the same voxels in space.

    Programs write one and the same volume with axes in another order or sense: what a DICOM series
    lists from head to foot is often listed from foot to head in a mask that was drawn on it.

    Args:
        voxels: (x, y, slice) of the mask.
        affine: of the mask.
        shape: of the image.
        grid: the image's affine.

    Returns:
        A view of the mask's voxels of shape `shape`, or None where the grids differ.
    """
    found = place(voxels.shape, affine, shape, grid)
    return found(voxels) if found and found.size == tuple(shape) else None


@dataclass(frozen=True, slots=True)
class Volume:
    """The voxels of a NIfTI file, a DICOM series, or of one of these for each channel.

    Attributes:
        file: path relative to the hospital's folder.
        voxels: array (x, y, slice) or (x, y, slice, channel), in the type of the file; float32
            where the header scales it.
        affine: 4 x 4, voxel to mm; finite and invertible.
        reference: UID of DICOM's frame of reference; empty where the file knows none.
        notes: warnings about how it was stored.
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
