"""Smooth random fields, and the grid of a scan on which they are evaluated.

A field is a function of position in millimetres, drawn independently of any grid, so that the same
patient can be scanned at any resolution. All functions are pure.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Positions of a scan's voxels, by axis, in mm: x to the right, y to the front, z upwards.

    Attributes:
        x: positions of shape (X,); likewise `y` and `z`.
    """

    x: Array
    y: Array
    z: Array

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along x, y and z."""
        return len(self.x), len(self.y), len(self.z)

    @property
    def affine(self) -> Array:
        """The matrix of shape (4, 4) from a voxel's indices to its position."""
        origin = np.array([self.x[0], self.y[0], self.z[0]])
        step = np.array([self.x[1], self.y[1], self.z[1]]) - origin
        affine = np.diag([*step, 1.0])
        affine[:3, 3] = origin
        return affine

    def mesh(self) -> tuple[Array, Array, Array]:
        """The coordinates as arrays that broadcast to (X, Y, Z)."""
        return self.x[:, None, None], self.y[None, :, None], self.z[None, None, :]


@dataclass(frozen=True, slots=True, kw_only=True)
class SmoothField:
    """A stationary random field of mean 0 and variance 1: a sum of plane waves.

    This is the spectral method of Rahimi and Recht, "Random features for large-scale kernel
    machines" (2007), eq. 1: sqrt(2/K) * sum_k cos(w_k . p + b_k). On a grid, each wave is a product
    of one factor for each axis, so the sum is one matrix product.

    Attributes:
        frequencies: wave vectors of shape (K, 3), radians per mm.
        phases: phases of shape (K,), radians.
    """

    frequencies: Array
    phases: Array

    @classmethod
    def draw(cls, rng: np.random.Generator, *, wavelength: float, waves: int = 32) -> "SmoothField":
        """Draws a field whose waves run in all directions.

        Args:
            rng: source of randomness; the number of values drawn depends on `waves` alone.
            wavelength: typical wavelength in mm; each wave's lies within about a fifth of it.
            waves: number K of waves; the field becomes more nearly Gaussian with more waves.
        """
        directions = rng.normal(size=(waves, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        lengths = 2 * np.pi / wavelength * rng.uniform(0.8, 1.2, size=(waves, 1))
        return cls(frequencies=directions * lengths, phases=rng.uniform(0, 2 * np.pi, size=waves))

    def on(self, grid: Grid) -> Array:
        """The field's values on a grid, of shape (X, Y, Z)."""
        along_x = np.exp(1j * (np.outer(grid.x, self.frequencies[:, 0]) + self.phases))
        along_y = np.exp(1j * np.outer(grid.y, self.frequencies[:, 1]))
        along_z = np.exp(1j * np.outer(self.frequencies[:, 2], grid.z))
        in_plane = (along_x[:, None, :] * along_y[None, :, :]).reshape(-1, len(self.phases))
        # The real part of a product needs two of its four real products.
        total = in_plane.real @ along_z.real - in_plane.imag @ along_z.imag
        values: Array = np.sqrt(2 / len(self.phases)) * total.reshape(grid.shape)
        return values
