"""Draws a head without a tumour, including benign findings that resemble one.

The head has scalp, skull, cerebrospinal fluid, folded grey matter, white matter, ventricles, deep
nuclei, brainstem and cerebellum. It is independent of the scan, a function of position in
millimetres: x to the right, y to the front, z upwards. Shapes are levels (signed distances): mm
outside of a surface, negative inside, so that the minimum of two levels is their union and the
maximum their intersection. The result is a stack of layers, each a tissue and the share of every
voxel that it covers; later layers cover earlier ones. The proportions are those of an adult to
within a few millimetres, and are not taken from any atlas or patient.
"""

from dataclasses import dataclass
from enum import Enum, auto
from itertools import pairwise

import numpy as np

from consortium.synthetic.fields import Array, Grid, SmoothField

Point = tuple[float, float, float]

_BRAIN = (66.0, 83.0, 72.0)  # semi-axes of the inside of the skull, mm
_FOLDS = 24.0  # wavelength of the cortex in mm; two sulci lie about half of it apart
_BRANCHES = 34.0

# Right lateral ventricle, end to end: position of the axis in mm, and radius in a young brain.
_HORNS = (
    ((8.0, 30.0, 2.0), 3.2),
    ((9.0, 14.0, 13.0), 4.0),
    ((11.0, -14.0, 17.0), 3.8),
    ((19.0, -36.0, 9.0), 4.6),
    ((24.0, -54.0, 4.0), 2.4),
)
_TEMPORAL_HORN = (((19.0, -36.0, 9.0), 4.2), ((31.0, -20.0, -14.0), 1.6))


class Tissue(Enum):
    """The tissues of a voxel; `consortium.synthetic.scanner` has the signal of each."""

    SCALP = auto()
    MUSCLE = auto()
    BONE = auto()
    MARROW = auto()
    FLUID = auto()
    GREY = auto()
    WHITE = auto()
    NUCLEI = auto()
    EYE = auto()
    AIR = auto()
    VESSEL = auto()
    PLEXUS = auto()
    LESION = auto()
    OEDEMA = auto()
    CORE = auto()
    NECROSIS = auto()


@dataclass(frozen=True, slots=True)
class Layer:
    """A tissue and the share of each voxel that it covers.

    Attributes:
        tissue: the tissue.
        share: share of each voxel, in [0, 1], of shape (X, Y, Z).
    """

    tissue: Tissue
    share: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """A head on a grid. All arrays have the shape (X, Y, Z).

    Attributes:
        x: coordinate in the standard head in mm; likewise `y` and `z`.
        surface: level of the inside of the skull.
        ventricle: level of the ventricles.
        grey: share of cortex in each voxel.
        layers: the tissues; later layers cover earlier ones.
    """

    x: Array
    y: Array
    z: Array
    surface: Array
    ventricle: Array
    grey: Array
    layers: tuple[Layer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """A mass that displaces the brain around it.

    Attributes:
        centre: position in the standard head, mm.
        reach: length over which the displacement fades, mm.
        strength: relative displacement of the tissue at the centre, in [0, 0.5].
    """

    centre: Point
    reach: float
    strength: float

    def moved(self, x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
        """The position, without the mass, of the tissue that is at (x, y, z), mm."""
        u, v, w = x - self.centre[0], y - self.centre[1], z - self.centre[2]
        pull = self.strength * np.exp(-(u**2 + v**2 + w**2) / (2 * self.reach**2))
        return x - pull * u, y - pull * v, z - pull * w


@dataclass(frozen=True, slots=True, kw_only=True)
class Scar:
    """An old infarct: a cavity filled with fluid in a rim of gliosis. It is not a tumour.

    Attributes:
        centre: position in the standard head, mm.
        radius: radius with the rim, mm.
        cavity: radius of the cavity, as a share of `radius`.
    """

    centre: Point
    radius: float
    cavity: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Scar":
        """Draws an infarct in the outer part of a hemisphere."""
        centre = inside_brain(rng, nearest=0.6, furthest=0.85)
        return cls(centre=centre, radius=rng.uniform(6, 15), cavity=rng.uniform(0.2, 0.7))

    def on(self, x: Array, y: Array, z: Array, ragged: Array, brain: Array) -> tuple[Layer, Layer]:
        """Samples gliosis and cavity; `ragged` has variance 1, `brain` is the share of brain."""
        level = _ball(x, y, z, self.centre, self.radius) + 0.18 * self.radius * ragged
        return (
            Layer(Tissue.LESION, _share(level, 3.0) * brain),
            Layer(Tissue.FLUID, _share(level + (1 - self.cavity) * self.radius) * brain),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The individual properties of one person's head.

    Attributes:
        size: factors on the standard head along x, y and z.
        tilt: rotation in the scanner about z and about x, radians.
        shift: position in the scanner, mm.
        atrophy: from 0, a young brain, to 1, wide sulci and ventricles.
        leukoaraiosis: amount of white-matter hyperintensities, from 0 to 1.
        scalp: thickness in mm; likewise `skull`.
        scars: old infarcts.
        bends: fields of displacement along x, y and z.
        folds: field whose zeros are the sulci.
        branches: field whose common zeros with `folds` are vessels.
        spots: field whose peaks are hyperintensities of the white matter.
    """

    size: Point
    tilt: tuple[float, float]
    shift: Point
    atrophy: float
    leukoaraiosis: float
    scalp: float
    skull: float
    scars: tuple[Scar, ...]
    bends: tuple[SmoothField, SmoothField, SmoothField]
    folds: SmoothField
    branches: SmoothField
    spots: SmoothField

    @classmethod
    def draw(cls, rng: np.random.Generator, *, age: float, male: bool) -> "Head":
        """Draws a head.

        Args:
            rng: source of randomness.
            age: years; atrophy, hyperintensities and scars become more frequent with age.
            male: whether the patient is male; a male head is 3 % larger on average.
        """
        years = float(np.clip((age - 25) / 60, 0, 1))
        wide, long, high = (1.015 if male else 0.985) * rng.normal(1, 0.025, 3).clip(0.95, 1.05)
        return cls(
            size=(wide, long, high),
            tilt=(rng.normal(0, 0.05), rng.normal(0, 0.06)),
            shift=(rng.normal(0, 2.5), rng.normal(0, 2.5), rng.normal(0, 4)),
            atrophy=float(np.clip(years + rng.normal(0, 0.2), 0, 1)),
            leukoaraiosis=float(np.clip(years + rng.normal(0, 0.25), 0, 1)),
            scalp=rng.uniform(4, 9),
            skull=rng.uniform(5, 8),
            scars=tuple(Scar.draw(rng) for _ in range(rng.binomial(3, 0.15 + 0.25 * years))),
            bends=(
                SmoothField.draw(rng, wavelength=130, waves=12),
                SmoothField.draw(rng, wavelength=130, waves=12),
                SmoothField.draw(rng, wavelength=130, waves=12),
            ),
            folds=SmoothField.draw(rng, wavelength=_FOLDS, waves=48),
            branches=SmoothField.draw(rng, wavelength=_BRANCHES, waves=24),
            spots=SmoothField.draw(rng, wavelength=18, waves=32),
        )

    def on(self, grid: Grid, push: Push | None = None) -> Anatomy:
        """Samples the head on a scan's grid.

        Args:
            grid: positions of the voxels in the scanner.
            push: a mass that displaces the brain, but not the skull.
        """
        x, y, z = self._standard(grid)
        skull = _skull(x, y, z)
        surface = np.maximum(skull, 3 * (_floor(x, y) - z))
        shell = self._shell(x, y, z, surface, skull)
        if push is not None:
            x, y, z = push.moved(x, y, z)
        folds = self.folds.on(grid)
        gap = 1.0 + 1.8 * self.atrophy  # fluid between skull and brain, mm
        brain = _share(surface + gap)
        sulci = self._sulci(x, y, z, surface, folds)
        ventricle = self._ventricles(x, y, z)
        # Cortex borders the fluid around the brain and in its sulci, but not the ventricles.
        lining = np.minimum(sulci, -gap - surface) - 3.6
        grey = _share(lining, 2.0) * np.clip((ventricle - 3) / 4, 0, 1)
        layers = (
            *shell,
            Layer(Tissue.WHITE, brain),
            Layer(Tissue.GREY, grey * brain),
            Layer(Tissue.NUCLEI, _nuclei(x, y, z)),
            Layer(Tissue.LESION, self._hyperintensities(grid, ventricle) * (1 - grey) * brain),
            Layer(Tissue.FLUID, _share(np.minimum(sulci, ventricle)) * brain),
            *_hindbrain(x, y, z, surface, folds),
            *self._vessels(grid, x, y, z, surface, folds),
            *(layer for scar in self.scars for layer in scar.on(x, y, z, folds, brain)),
        )
        return Anatomy(
            x=x, y=y, z=z, surface=surface, ventricle=ventricle, grey=grey, layers=layers
        )

    def _standard(self, grid: Grid) -> tuple[Array, Array, Array]:
        """Coordinates of the voxels in the standard head, mm."""
        x, y, z = (a - shift for a, shift in zip(grid.mesh(), self.shift, strict=True))
        turn, nod = self.tilt
        x, y = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
        y, z = np.cos(nod) * y + np.sin(nod) * z, np.cos(nod) * z - np.sin(nod) * y
        x, y, z = (a / size for a, size in zip((x, y, z), self.size, strict=True))
        x, y, z = (a + 2.5 * bend.on(grid) for a, bend in zip((x, y, z), self.bends, strict=True))
        return x, y, z

    def _shell(self, x: Array, y: Array, z: Array, surface: Array, skull: Array) -> list[Layer]:
        """The layers between brain and air: fluid, skull, scalp, face and eyes."""
        skin = skull - self.skull - self.scalp
        muscle = np.maximum(skin + 0.55 * self.scalp, z + 4 + 0.15 * y)
        eyes = _ball(np.abs(x), y, z, (31, 70, -33), 12.0)
        nose = _ball(x, y, z, (0, 74, -36), 13.0)
        diploe = np.abs(surface - 0.5 * self.skull) - 0.16 * self.skull
        return [
            Layer(Tissue.SCALP, _share(skin)),
            Layer(Tissue.MUSCLE, _share(muscle, 3.0)),
            Layer(Tissue.BONE, _share(surface - self.skull)),
            Layer(Tissue.MARROW, _share(diploe)),
            Layer(Tissue.AIR, _share(nose, 3.0)),
            Layer(Tissue.EYE, _share(eyes)),
            Layer(Tissue.FLUID, _share(surface)),
        ]

    def _sulci(self, x: Array, y: Array, z: Array, surface: Array, folds: Array) -> Array:
        """Level of the fluid in the sulci and in the fissure between the hemispheres."""
        # Near a zero of a field of variance 1, its value is the distance times its wave number.
        walls = np.abs(folds) * _FOLDS / (2 * np.pi)
        deep = np.maximum(0, -surface - 17) * 0.7
        width = 0.2 + 0.9 * self.atrophy
        # The corpus callosum closes the fissure in the middle of the head.
        callosum = np.sqrt((y / 46) ** 2 + ((z - 2) / 30) ** 2)
        fissure = np.maximum(np.abs(x) - 0.7 - 0.6 * self.atrophy, 25 * (1 - callosum))
        level: Array = np.minimum(walls + deep - width, fissure)
        return level

    def _ventricles(self, x: Array, y: Array, z: Array) -> Array:
        """Level of the lateral ventricles and the third ventricle."""
        side = np.abs(x)
        grown = 1.05 + 0.9 * self.atrophy
        lateral = np.minimum(
            _tube(side, y, z, _HORNS, grown), _tube(side, y, z, _TEMPORAL_HORN, grown)
        )
        third = np.maximum(side - 1.0 - 1.5 * self.atrophy, _ball(x, y, z, (0, -6, -3), 13))
        return np.minimum(lateral, third)

    def _hyperintensities(self, grid: Grid, ventricle: Array) -> Array:
        """Share of white matter that is bright on FLAIR due to age: caps, rims and spots."""
        rim = np.clip(1 - (ventricle - 1) / (1.5 + 5 * self.leukoaraiosis), 0, 1)
        near = np.clip(1.3 - ventricle / 30, 0, 1)
        spots = np.clip(2.2 * (self.spots.on(grid) - 2.5 + 1.3 * self.leukoaraiosis), 0, 1)
        return np.maximum((0.3 + 0.6 * self.leukoaraiosis) * rim, spots * near)

    def _vessels(
        self, grid: Grid, x: Array, y: Array, z: Array, surface: Array, folds: Array
    ) -> list[Layer]:
        """The layers that enhance in every head: veins in the sulci, sinus and choroid plexus."""
        across = np.hypot(
            folds * _FOLDS / (2 * np.pi), self.branches.on(grid) * _BRANCHES / (2 * np.pi)
        )
        veins = np.maximum(across - 0.9, surface + 1)
        sinus = np.maximum(np.hypot(x, surface + 1.5) - 3.6, np.minimum(y, 20 - z))
        plexus = _ball(np.abs(x), y, z, (19, -38, 8), 3.6)
        return [
            Layer(Tissue.VESSEL, _share(veins)),
            Layer(Tissue.VESSEL, _share(sinus)),
            Layer(Tissue.PLEXUS, _share(plexus)),
        ]


def inside_brain(rng: np.random.Generator, *, nearest: float, furthest: float) -> Point:
    """Draws a position in a cerebral hemisphere, off the midline and above the skull's base.

    Args:
        rng: source of randomness.
        nearest: minimum distance from the brain's centre, as a share of that to the skull.
        furthest: maximum distance from the brain's centre, as a share of that to the skull.

    Returns:
        x, y and z in the standard head, mm.
    """
    while True:
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        x, y, z = direction * rng.uniform(nearest, furthest) * _BRAIN
        if abs(x) > 14 and -14 < z < 52:
            return float(x), float(y), float(z)


def _share(level: Array, softness: float = 2.0) -> Array:
    """Share of a voxel inside a surface: falls from 1 to 0 over `softness` mm (partial volume)."""
    return np.clip(0.5 - level / softness, 0, 1)


def _ball(x: Array, y: Array, z: Array, centre: Point, radius: float) -> Array:
    """Level of a ball."""
    u, v, w = x - centre[0], y - centre[1], z - centre[2]
    return np.sqrt(u * u + v * v + w * w) - radius


def _ellipsoid(x: Array, y: Array, z: Array, centre: Point, axes: Point) -> Array:
    """Level of an ellipsoid, measured along the ray from its centre."""
    u, v, w = x - centre[0], y - centre[1], z - centre[2]
    share = np.sqrt((u / axes[0]) ** 2 + (v / axes[1]) ** 2 + (w / axes[2]) ** 2) + 1e-6
    return np.sqrt(u * u + v * v + w * w) * (1 - 1 / share) - 1e-6


def _skull(x: Array, y: Array, z: Array) -> Array:
    """Level of the inside of the skull without its base; narrower at the brow."""
    narrow = 1 + 0.09 * np.clip(y / _BRAIN[1], -0.6, 1)
    return _ellipsoid(x * narrow, y, z, (0, 0, 0), _BRAIN)


def _floor(x: Array, y: Array) -> Array:
    """Height of the skull's base, mm: high above the eyes, low below the cerebellum."""
    # The temporal lobes extend further to the front than the brain between them.
    poles = 16 * np.exp(-(((np.abs(x) - 36) / 18) ** 2))
    return np.clip(-20 - 0.7 * (28 + poles - y), -62, -20)


def _tube(
    x: Array, y: Array, z: Array, course: tuple[tuple[Point, float], ...], grown: float
) -> Array:
    """Level of a tube along positions with radii (mm, scaled by `grown`)."""
    level = np.full(x.shape, np.inf)
    for (start, first), (end, last) in pairwise(course):
        step = np.subtract(end, start)
        u, v, w = x - start[0], y - start[1], z - start[2]
        along = np.clip((u * step[0] + v * step[1] + w * step[2]) / (step @ step), 0, 1)
        distance = np.sqrt(
            (u - along * step[0]) ** 2 + (v - along * step[1]) ** 2 + (w - along * step[2]) ** 2
        )
        level = np.minimum(level, distance - grown * (first + along * (last - first)))
    return level


def _nuclei(x: Array, y: Array, z: Array) -> Array:
    """Share of thalamus, lentiform nucleus and head of the caudate."""
    side = np.abs(x)
    level = _ellipsoid(side, y, z, (10, -12, 2), (7, 13, 9))
    level = np.minimum(level, _ellipsoid(side, y, z, (25, 3, 1), (6, 17, 10)))
    level = np.minimum(level, _ellipsoid(side, y, z, (14, 19, 6), (5, 9, 9)))
    return _share(level)


def _hindbrain(x: Array, y: Array, z: Array, surface: Array, folds: Array) -> list[Layer]:
    """Cisterns, brainstem and cerebellum with its fine folds."""
    cistern = _ellipsoid(x, y, z, (0, -12, -34), (22, 24, 15))
    stem = _ellipsoid(x, y, z, (0, -22, -36), (14, 13, 30))
    cerebellum = np.maximum(_ellipsoid(x, y, z, (0, -48, -40), (48, 32, 22)), surface + 1)
    folia = 0.5 + 0.5 * np.sin(z * 1.1 + np.abs(x) * 0.25 + 1.2 * folds)
    return [
        Layer(Tissue.FLUID, _share(cistern) * _share(surface)),
        Layer(Tissue.WHITE, _share(stem)),
        Layer(Tissue.FLUID, _share(cerebellum - 2)),
        Layer(Tissue.GREY, _share(cerebellum)),
        Layer(Tissue.WHITE, _share(cerebellum) * folia * 0.7),
    ]
