"""What a scanner makes of a head: images with its own contrast, sharpness, bias and noise.

A scanner knows the sequences of the usual protocols for a glioma; `consortium.synthetic.protocols`
says which are asked for. How bright each tissue is on each sequence is a table; what differs
between machines is in `Scanner`.
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
    """What a scanner can acquire; the number is the place in every table of signals and gains."""

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
"""Signal of the healthy and the harmless, by sequence; a tumour's is its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanner:
    """A machine and its protocol.

    Attributes:
        name: as the patients' table gives it.
        field_of_view: width and length of a slice, mm.
        coverage: height of the stack of slices, mm.
        orientation: where the axes of the files point: to the right, front and head, or the
            first two to the left and back.
        gain: scanner's units for a signal of 1, by sequence.
        gamma: exponent on the signal, by sequence; below 1, the contrast of tissues is flatter.
        sharpness: standard deviation of the point spread in the plane, mm.
        bias: standard deviation of the logarithm of the receiver's sensitivity over the head.
        noise: standard deviation in each of the receiver's two parts, for a signal of 1.
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
        """Positions of the voxels of a stack of slices, the head being around the origin.

        Args:
            in_plane: voxels along each side of a slice.
            slices: how many; they share out `coverage`.
            isotropic: slices lie as far apart as the voxels within one, whatever `coverage` is.
        """
        side = self.field_of_view / in_plane
        apart = side if isotropic else self.coverage / slices
        across = side * (np.arange(in_plane, dtype=np.float64) - (in_plane - 1) / 2)
        # More of the brain is above the standard head's origin than below it.
        up = 16 + apart * (np.arange(slices, dtype=np.float64) - (slices - 1) / 2)
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

        Noise is Rician, that of a magnitude image: |s + n1 + i n2| with normal n1 and n2
        (Gudbjartsson and Patz, "The Rician distribution of noisy MRI data", 1995, eq. 1).

        Args:
            rng: source of randomness.
            grid: positions of the voxels.
            layers: tissues, each over the ones before.
            signals: of each tissue, by sequence.
            sequences: what is acquired, in the order of the channels.

        Returns:
            Of shape (X, Y, Z, sequences), in the scanner's units.
        """
        # No two patients are scanned quite alike: sequences are adapted, and people move.
        chosen = list(sequences)
        contrast = np.array(self.gamma)[chosen] * rng.uniform(0.8, 1.2, size=len(chosen))
        coil = SmoothField.draw(rng, wavelength=320, waves=12).on(grid)
        texture = 0.025 * SmoothField.draw(rng, wavelength=9, waves=32).on(grid)
        image = np.zeros((len(chosen), *grid.shape))
        for layer in layers:
            kept = 1 - layer.share
            for channel, sequence in zip(image, chosen, strict=True):
                channel *= kept
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
