"""Scans a head: images with a scanner's own contrast, sharpness, bias field and noise.

A scanner has the sequences of the usual protocols for a glioma; `consortium.synthetic.protocols`
selects among them. `SIGNALS` has the signal of each tissue on each sequence, and `Scanner` the
differences between scanners.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter1d

from consortium.synthetic.anatomy import Layer, Tissue
from consortium.synthetic.fields import Grid, SmoothField


class Sequence(IntEnum):
    """The sequences of a scanner; the number is the index in tables of signals and gains."""

    T1 = 0
    FLAIR = 1
    T1_CONTRAST = 2
    T2 = 3


Signal = tuple[float, float, float, float]

SIGNALS: dict[Tissue, Signal] = {
    Tissue.SCALP: (0.95, 0.58, 0.95, 0.60),
    Tissue.MUSCLE: (0.45, 0.34, 0.52, 0.26),
    Tissue.BONE: (0.06, 0.05, 0.06, 0.05),
    Tissue.MARROW: (0.50, 0.25, 0.50, 0.40),
    Tissue.FLUID: (0.20, 0.10, 0.21, 1.05),
    Tissue.GREY: (0.47, 0.55, 0.50, 0.58),
    Tissue.WHITE: (0.70, 0.45, 0.72, 0.42),
    Tissue.NUCLEI: (0.58, 0.52, 0.61, 0.50),
    Tissue.EYE: (0.22, 0.15, 0.22, 1.00),
    Tissue.AIR: (0.02, 0.02, 0.02, 0.02),
    Tissue.VESSEL: (0.28, 0.20, 1.05, 0.12),
    Tissue.PLEXUS: (0.45, 0.45, 0.95, 0.75),
    Tissue.LESION: (0.54, 0.80, 0.56, 0.78),
}
"""Signal of each healthy or benign tissue, by sequence; see `Tumour.signals` for tumours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanner:
    """A scanner and its settings.

    Attributes:
        name: name in the patients' table.
        field_of_view: width and length of a slice, mm.
        coverage: height of the stack of slices, mm.
        orientation: directions of the axes in the files: right, front and up (RAS), or left, back
            and up (LPS).
        gain: scanner's units for a signal of 1, by sequence.
        gamma: exponent on the signal, by sequence; below 1, tissue contrast is lower.
        sharpness: standard deviation of the point spread function in the plane, mm.
        bias: standard deviation of the logarithm of the receiver's sensitivity over the head.
        noise: standard deviation in each of the receiver's two channels, for a signal of 1.
    """

    name: str
    field_of_view: float
    coverage: float
    orientation: Literal["RAS", "LPS"]
    gain: Signal
    gamma: Signal
    sharpness: float
    bias: float
    noise: float

    def grid(self, in_plane: int, slices: int, *, isotropic: bool = False) -> Grid:
        """Positions of the voxels in a stack of slices; the head is around the origin.

        Args:
            in_plane: voxels along each side of a slice.
            slices: number of slices, which divide `coverage`.
            isotropic: whether the slice distance equals the voxel side, whatever `coverage` is.
        """
        side = self.field_of_view / in_plane
        slice_distance = side if isotropic else self.coverage / slices
        across = side * (np.arange(in_plane, dtype=np.float64) - (in_plane - 1) / 2)
        # More of the brain is above the standard head's origin than below it.
        up = 16 + slice_distance * (np.arange(slices, dtype=np.float64) - (slices - 1) / 2)
        return Grid(x=across, y=across, z=up)

    def acquire(
        self,
        rng: np.random.Generator,
        grid: Grid,
        layers: Iterable[Layer],
        signals: Mapping[Tissue, Signal],
        sequences: Collection[Sequence],
    ) -> npt.NDArray[np.int16]:
        """Scans a head.

        Noise is Rician, as in a magnitude image: |s + n1 + i n2| with normal n1 and n2
        (Gudbjartsson and Patz, "The Rician distribution of noisy MRI data", 1995, eq. 1).

        Args:
            rng: source of randomness.
            grid: positions of the voxels.
            layers: tissues; later layers cover earlier ones.
            signals: signal of each tissue, by sequence.
            sequences: the sequences to acquire, in the order of the channels.

        Returns:
            Image of shape (X, Y, Z, sequences), in the scanner's units.
        """
        # Contrast and sharpness vary by patient: sequences are adapted, and people move.
        chosen = list(sequences)
        contrast = np.array(self.gamma)[chosen] * rng.uniform(0.8, 1.2, size=len(chosen))
        coil = SmoothField.draw(rng, wavelength=320, waves=12).on(grid)
        texture = 0.025 * SmoothField.draw(rng, wavelength=9, waves=32).on(grid)
        image = np.zeros((len(chosen), *grid.shape))
        for layer in layers:
            uncovered = 1 - layer.share
            for channel, sequence in zip(image, chosen, strict=True):
                channel *= uncovered
                channel += signals[layer.tissue][sequence] * layer.share
        spread = self.sharpness * rng.uniform(0.8, 1.5) / (grid.x[1] - grid.x[0])
        for channel, gamma in zip(image, contrast, strict=True):
            channel **= gamma
            channel *= np.exp(self.bias * coil + texture)
        for axis in (1, 2):
            image = gaussian_filter1d(image, spread, axis, truncate=3.0)
        real, imaginary = self.noise * rng.uniform(0.7, 1.4) * rng.normal(size=(2, *image.shape))
        magnitude = np.hypot(image + real, imaginary)
        scaled = np.moveaxis(magnitude, 0, -1) * np.array(self.gain)[chosen]
        stored: npt.NDArray[np.int16] = np.rint(scaled).clip(0, 32767).astype(np.int16)
        return stored
