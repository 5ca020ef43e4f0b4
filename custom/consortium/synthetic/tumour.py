"""Draws a tumour: oedema with a ragged outline around a core with necrosis and enhancement.

Within a slice, oedema surrounds the core. Neither reaches into the ventricles or out of the brain,
and both hardly cross the midline.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_erosion

from consortium.synthetic.anatomy import Anatomy, Layer, Point, Push, Tissue, inside_brain
from consortium.synthetic.fields import Array, Grid, SmoothField
from consortium.synthetic.scanner import SIGNALS, Signal

_MARGIN = 2.0  # minimum width of the oedema around the core, mm, for a smooth outline


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """The appearance of tumours at one hospital, which depends on its referrals.

    Attributes:
        radius: median radius of the whole tumour, mm.
        spread: standard deviation of the radius's logarithm.
        core: minimum and maximum radius of the core, as shares of the whole.
        enhancing: share of patients with an enhancing core.
        oedema: brightness of oedema on FLAIR relative to white matter; 1 is typical.
        uptake: brightness of an enhancing core after contrast relative to white matter; 1 is
            typical.
    """

    radius: float
    spread: float
    core: tuple[float, float]
    enhancing: float
    oedema: float
    uptake: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tumour:
    """One patient's tumour.

    Attributes:
        centre: position in the standard head, mm.
        radius: radius of the whole tumour along x, y and z, mm.
        core: radius of the core, as a share of the whole.
        offset: vector from the whole's centre to the core's, as a share of the whole's radius.
        ragged: irregularity of the outline, as a share of the radius.
        wall: thickness of the viable core around the necrosis, mm.
        oedema: this patient's value; see `Growth`.
        cells: cell density of the core, from 0, similar to fluid, to 1.
        uptake: this patient's value, 0 for a core that does not enhance; see `Growth`.
        outline: field that shapes the oedema.
        inner: field that shapes the core.
    """

    centre: Point
    radius: Point
    core: float
    offset: Point
    ragged: float
    wall: float
    oedema: float
    cells: float
    uptake: float
    outline: SmoothField
    inner: SmoothField

    @classmethod
    def draw(cls, rng: np.random.Generator, growth: Growth) -> "Tumour":
        """Draws a tumour."""
        centre = inside_brain(rng, nearest=0.3, furthest=0.72)
        size = float(np.clip(growth.radius * np.exp(rng.normal(0, growth.spread)), 10, 28))
        wide, long, high = size * rng.uniform(0.8, 1.25, 3)
        right, front, up = rng.uniform(-0.18, 0.18, 3)
        return cls(
            centre=centre,
            radius=(wide, long, high),
            core=rng.uniform(*growth.core),
            offset=(right, front, up),
            ragged=rng.uniform(0.12, 0.28),
            wall=rng.uniform(2.0, 9.0),
            oedema=growth.oedema * rng.uniform(0.7, 1.25),
            cells=rng.random(),
            uptake=growth.uptake * rng.uniform(0.6, 1.2) * (rng.random() < growth.enhancing),
            outline=SmoothField.draw(rng, wavelength=1.3 * size),
            inner=SmoothField.draw(rng, wavelength=0.9 * size),
        )

    @property
    def push(self) -> Push:
        """The displacement of the brain around the tumour."""
        return Push(centre=self.centre, reach=1.1 * max(self.radius), strength=0.28)

    @property
    def signals(self) -> dict[Tissue, Signal]:
        """The signal of the tumour's tissues, by sequence."""
        white = SIGNALS[Tissue.WHITE]
        dry = 0.50 - 0.16 * (1 - self.cells)
        wet = 0.42 * self.oedema
        return {
            Tissue.OEDEMA: (0.66 - 0.16 * self.oedema, white[1] + wet, 0.54, white[3] + wet),
            Tissue.CORE: (
                dry,
                0.38 + 0.42 * self.cells,
                dry + 0.65 * self.uptake,
                0.85 - 0.25 * self.cells,
            ),
            Tissue.NECROSIS: (0.28, 0.26 + 0.25 * self.cells, 0.30, 0.95),
        }

    def on(self, grid: Grid, head: Anatomy) -> tuple[list[Layer], npt.NDArray[np.uint8]]:
        """Samples the tumour on a scan's grid.

        Args:
            grid: positions of the voxels in the scanner.
            head: the head on the same grid.

        Returns:
            The layers that cover the head's, and the mask of shape (X, Y, Z): 1 for oedema, 2 for
            a necrotic or non-enhancing core, 3 for an enhancing core, 0 elsewhere.
        """
        size = float(np.mean(self.radius))
        outline = self.outline.on(grid)
        whole = self._level(head, (0, 0, 0), 1) + self.ragged * size * outline
        # Oedema spreads along white matter and spares cortex; the falx confines it to one side.
        whole += 0.18 * size * head.grey
        whole += 2.5 * np.maximum(0, -np.sign(self.centre[0]) * head.x + 1)
        whole = np.maximum(whole, np.maximum(1.5 - head.ventricle, head.surface + 3))
        inner = self.inner.on(grid)
        core = self._level(head, self.offset, self.core) + 0.8 * self.ragged * size * inner
        core = np.maximum(core, whole + _MARGIN)
        necrosis = core + self.wall + 0.6 * inner

        mask = np.zeros(grid.shape, np.uint8)
        mask[whole < 0] = 1
        # Within a slice the core never touches healthy tissue, however coarse the voxels.
        in_plane = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)[:, :, None]
        mask[(core < 0) & binary_erosion(whole < 0, in_plane)] = 2
        if self.uptake > 0:
            mask[(mask == 2) & (necrosis > 0)] = 3
        # Oedema is patchy and fades at its edge; an annotator draws the outline midway.
        oedema_share = np.clip(0.5 - whole / 3, 0, 1) * (0.88 + 0.1 * np.clip(inner, -1, 1))
        core_share = np.clip(0.5 - core / 2.5, 0, 1)
        layers = [
            Layer(Tissue.OEDEMA, oedema_share),
            Layer(Tissue.CORE, core_share),
            Layer(Tissue.NECROSIS, np.clip(0.5 - necrosis / 3, 0, 1)),
        ]
        return layers, mask

    def _level(self, head: Anatomy, offset: Point, share: float) -> Array:
        """Level of an ellipsoid with `share` of the radius, `offset` radii from the centre."""
        axes = zip((head.x, head.y, head.z), self.centre, self.radius, offset, strict=True)
        squares = [((a - c - o * r) / (share * r)) ** 2 for a, c, r, o in axes]
        return share * float(np.mean(self.radius)) * (np.sqrt(sum(squares[1:], squares[0])) - 1)
