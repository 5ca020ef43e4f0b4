"""Draws chest X-rays of fictitious patients, from hospitals with an adjustable shortcut.

An X-ray is drawn in coordinates from -1 to 1 along both sides: to the patient's left and to the
feet. Absorption adds up along the ray and is bright. The diseases are simplified textbook findings:
COVID-19, hazy patches in both lungs, peripheral and low; other pneumonia, one dense patch on one
side; normal, neither.

A scanner has its own grey curve, blur, collimation, slope of brightness and marker. With a
`shortcut` of 0, all hospitals have the same scanner; with 1, each has its own. Nothing else of a
patient depends on the shortcut. An X-ray depends on (seed, hospital, number) and its hospital's
mix, severities and scanner alone. Use it to test a check for shortcuts against a known shortcut. It
does not show how well a model recognises a disease on real X-rays.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

Array = npt.NDArray[np.float64]
Label = Literal["covid", "pneumonia", "normal"]
LABELS: tuple[Label, ...] = ("covid", "pneumonia", "normal")


@dataclass(frozen=True, slots=True, kw_only=True)
class XrayScanner:
    """A scanner and its processing. Greys run from 0, black, to 1.

    Attributes:
        gamma: exponent on the greys.
        blur: standard deviation of the point spread function, as a share of the side.
        collimation: share of the side that is black at the top and bottom, and at the sides.
        slope: added brightness of the X-ray's left and lower edges over its middle (heel effect).
        marker: position (x, y) of the lead letter.
        noise: standard deviation of the noise.
    """

    gamma: float = 1.0
    blur: float = 0.008
    collimation: tuple[float, float] = (0.03, 0.03)
    slope: tuple[float, float] = (0.0, 0.0)
    marker: tuple[float, float] = (-0.75, -0.82)
    noise: float = 0.02


COMMON = XrayScanner()
OWN = (
    XrayScanner(
        gamma=0.75, blur=0.010, collimation=(0.07, 0.01), slope=(0.10, 0.0), marker=(-0.78, -0.82)
    ),
    XrayScanner(
        gamma=1.30, blur=0.006, collimation=(0.01, 0.07), slope=(-0.10, 0.0), marker=(0.78, -0.82)
    ),
    XrayScanner(
        gamma=1.00, blur=0.014, collimation=(0.01, 0.01), slope=(0.0, 0.12), marker=(0.78, 0.82)
    ),
    XrayScanner(
        gamma=1.10, blur=0.007, collimation=(0.06, 0.06), slope=(0.0, -0.12), marker=(-0.78, 0.82)
    ),
)
"""Scanners of four hospitals at a shortcut of 1; further hospitals reuse them in turn."""

MIXED = ((0.70, 0.15, 0.15), (0.15, 0.70, 0.15), (0.15, 0.15, 0.70), (0.40, 0.40, 0.20))
ALIKE = ((0.4, 0.3, 0.3),) * 4
"""Shares of the labels at four hospitals, in the order of `LABELS`: different, and equal."""


def blend_scanner(own: XrayScanner, shortcut: float) -> XrayScanner:
    """Interpolates between the common scanner and a hospital's own.

    Args:
        own: the hospital's own scanner.
        shortcut: from 0, the common scanner, to 1, the hospital's own.
    """

    def mix(first: float, second: float) -> float:
        return first + shortcut * (second - first)

    def both(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
        return mix(first[0], second[0]), mix(first[1], second[1])

    return XrayScanner(
        gamma=float(np.exp(mix(np.log(COMMON.gamma), np.log(own.gamma)))),
        blur=mix(COMMON.blur, own.blur),
        collimation=both(COMMON.collimation, own.collimation),
        slope=both(COMMON.slope, own.slope),
        marker=both(COMMON.marker, own.marker),
        noise=COMMON.noise,
    )


def draw_radiograph(
    rng: np.random.Generator,
    label: Label,
    scanner: XrayScanner,
    side: int,
    severity: float = 1.0,
    exposure: np.random.Generator | None = None,
) -> npt.NDArray[np.uint8]:
    """Draws one frontal X-ray in grey, rows from head to feet.

    Args:
        rng: source of randomness.
        label: the patient's disease.
        scanner: the scanner.
        side: side of the X-ray, pixels.
        severity: factor on the density of the disease's opacities.
        exposure: source of randomness for the exposure, which differs between two X-rays of one
            chest; None for `rng`.

    Returns:
        Greys of shape (side, side), uint8. The number of values drawn from `rng` depends neither on
        the scanner nor on the severity.
    """
    line = (np.arange(side) + 0.5) / side * 2 - 1
    zoom, dx, dy, tilt = rng.uniform(0.88, 1.08), *rng.normal(0, 0.04, 2), rng.normal(0, 0.04)
    x0, y0 = (line[None, :] - dx) / zoom, (line[:, None] - dy) / zoom
    x, y = x0 + tilt * y0, y0 - tilt * x0
    wide, high = rng.uniform(0.92, 1.06), rng.uniform(0.92, 1.1)
    depth = rng.uniform(0, 0.12)  # depth of inspiration

    body = _soft(_ellipse(x, y, (0, 0.55), (0.93 * wide, 1.5), 3.0), 0.06)
    right = _ellipse(
        x, y, (-0.40 * wide, -0.05 + depth / 2), (0.31 * wide, 0.62 * high + depth / 2), 2.4
    )
    left = _ellipse(
        x, y, (0.42 * wide, -0.05 + depth / 2), (0.29 * wide, 0.60 * high + depth / 2), 2.4
    )
    dome_right = y - (0.46 + depth - 0.28 * (1 - ((x + 0.42) / 0.4) ** 2).clip(0))
    dome_left = y - (0.52 + depth - 0.26 * (1 - ((x - 0.42) / 0.4) ** 2).clip(0))
    right = np.maximum(right, dome_right)
    left = np.maximum(left, dome_left)
    heart_size = rng.uniform(0.85, 1.15)
    heart = _soft(_ellipse(x, y, (0.13, 0.30), (0.33 * heart_size, 0.30 * heart_size)), 0.08)
    middle = _soft(np.abs(x - 0.02 * np.sin(3 * y)) - 0.13 - 0.06 * (y > 0) * y, 0.10)
    lungs = (_soft(right, 0.05) + _soft(left, 0.05)).clip(0, 1)

    absorbed = 0.62 * body + 0.10 * _waves(rng, line, line, 1.2) * body
    absorbed -= lungs * rng.uniform(0.36, 0.46)
    absorbed += 0.30 * middle * body + 0.26 * heart
    arc = y + 0.35 * (np.abs(x) - 0.45) ** 2 + 0.18 * np.abs(x) + rng.uniform(-0.08, 0.08)
    absorbed += (
        0.045 * rng.uniform(0.6, 1.4) * np.clip(np.cos(arc * 2 * np.pi / 0.235), 0, 1) * body
    )
    absorbed += 0.06 * _soft(np.abs(y + 0.66 + 0.12 * np.abs(x)) - 0.03, 0.04) * (np.abs(x) < 0.7)
    absorbed += 0.035 * _waves(rng, line, line, 0.16, 16) * lungs
    absorbed += severity * _lesions(rng, x, y, line, label) * lungs

    # The exposure varies between X-rays at every hospital.
    if exposure is not None:
        rng = exposure
    jitter = rng.normal(0, 1, 6)
    grey = 0.12 + 0.86 * absorbed.clip(0, 1.15) / 1.15
    grey += (scanner.slope[0] + 0.03 * jitter[0]) * line[None, :] + (
        scanner.slope[1] + 0.03 * jitter[1]
    ) * line[:, None]
    marker = (scanner.marker[0] + 0.06 * jitter[4], scanner.marker[1] + 0.04 * jitter[5])
    if rng.uniform() < 0.8:
        glyph = (np.abs(line[None, :] - marker[0]) < 0.045) & (
            np.abs(line[:, None] - marker[1]) < 0.06
        )
        grey[glyph] = 0.95
    grey = grey.clip(0, 1) ** (scanner.gamma * np.exp(0.12 * jitter[2]))
    grey = gaussian_filter(grey, scanner.blur * side * np.exp(0.2 * jitter[3]), truncate=3.0)
    ends, sides = np.array(scanner.collimation) + np.abs(rng.normal(0, 0.015, 2))
    grey[np.abs(line) > 1 - 2 * ends, :] = 0.02
    grey[:, np.abs(line) > 1 - 2 * sides] = 0.02
    grey += scanner.noise * rng.uniform(0.7, 1.4) * rng.normal(size=grey.shape)
    stored: npt.NDArray[np.uint8] = np.rint(255 * grey.clip(0, 1)).astype(np.uint8)
    return stored


@dataclass(frozen=True, slots=True)
class Radiographs:
    """X-rays of several hospitals, one for each patient.

    Attributes:
        images: greys of shape (n, side, side).
        labels: indices in `LABELS`, of shape (n,).
        hospitals: indices of the hospitals, from 0, of shape (n,).
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    hospitals: npt.NDArray[np.int64]


def draw_radiographs(
    seed: int,
    patients: int,
    shortcut: float,
    *,
    side: int = 64,
    mixes: Sequence[Sequence[float]] = MIXED,
    severities: Sequence[Sequence[float]] | None = None,
    first: int = 0,
) -> Radiographs:
    """Draws one X-ray of each patient at each hospital.

    Args:
        seed: seed of all randomness.
        patients: number of patients at each hospital.
        shortcut: from 0, the same scanner everywhere, to 1.
        side: side of the X-rays, pixels.
        mixes: shares of the labels at each hospital.
        severities: severities of the labels at each hospital; None for 1.
        first: number of the first patient, for held-out patients that differ from others.

    Raises:
        ValueError: the shortcut is outside [0, 1].
    """
    if not 0 <= shortcut <= 1:
        raise ValueError(f"the shortcut is {shortcut}, and must be from 0 to 1")
    images, labels, hospitals = [], [], []
    for hospital, mix in enumerate(mixes):
        scanner = blend_scanner(OWN[hospital % len(OWN)], shortcut)
        for number in range(first, first + patients):
            rng = patient_rng(seed, hospital, number)
            label = int(rng.choice(len(LABELS), p=mix))
            severity = 1.0 if severities is None else severities[hospital][label]
            images.append(draw_radiograph(rng, LABELS[label], scanner, side, severity))
            labels.append(label)
            hospitals.append(hospital)
    return Radiographs(np.stack(images), np.array(labels), np.array(hospitals))


def patient_rng(seed: int, *parts: str | int) -> np.random.Generator:
    """The source of randomness of one patient.

    Its seed has 64 bits: seeds of 31 bits would collide among some ten thousand patients.

    Args:
        seed: seed of all randomness.
        parts: the hospital and the patient's number.
    """
    text = "\x1f".join(map(str, (seed, "xray", *parts)))
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))


def _lesions(rng: np.random.Generator, x: Array, y: Array, line: Array, label: Label) -> Array:
    """The absorption that the disease adds within the lungs."""
    haze = np.zeros((y.shape[0], x.shape[1]))
    if label == "covid":
        texture = (1 + 0.5 * _waves(rng, line, line, 0.22)).clip(0)
        for flank in (-1, 1):
            for _ in range(int(rng.integers(2, 5))):
                at = flank * rng.uniform(0.38, 0.66), rng.uniform(-0.15, 0.42)
                radius = rng.uniform(0.08, 0.17)
                square = ((x - at[0]) / radius) ** 2 + ((y - at[1]) / (1.3 * radius)) ** 2
                haze += rng.uniform(0.12, 0.28) * np.exp(-square) * texture
    elif label == "pneumonia":
        flank = -1 if rng.uniform() < 0.6 else 1
        at = flank * rng.uniform(0.28, 0.48), rng.choice([-0.35, 0.05, 0.35]) + rng.normal(0, 0.05)
        inside = _ellipse(x, y, at, (rng.uniform(0.14, 0.26), rng.uniform(0.12, 0.22)))
        haze += rng.uniform(0.22, 0.44) * _soft(inside, 0.12)
    return haze


def _soft(distance: Array, edge: float) -> Array:
    """Maps a signed distance to 1 inside and 0 outside, over an edge of the given width."""
    return np.clip(0.5 - distance / edge, 0.0, 1.0)


def _ellipse(
    x: Array, y: Array, centre: tuple[float, float], radii: tuple[float, float], power: float = 2.0
) -> Array:
    """Level of an ellipse of shape (side, side): negative inside, a distance near the edge."""
    reach = (
        np.abs((x - centre[0]) / radii[0]) ** power + np.abs((y - centre[1]) / radii[1]) ** power
    )
    return (reach ** (1 / power) - 1) * min(radii)


def _waves(
    rng: np.random.Generator, x: Array, y: Array, wavelength: float, count: int = 10
) -> Array:
    """A smooth field of mean 0 and variance 1, of shape (side, side).

    Rahimi and Recht, "Random features for large-scale kernel machines" (2007), eq. 1; each wave
    is a product of one factor for each axis.
    """
    angle = rng.uniform(0, 2 * np.pi, count)
    length = 2 * np.pi / wavelength * rng.uniform(0.7, 1.4, count)
    across = np.exp(
        1j * (np.outer(x.ravel(), length * np.cos(angle)) + rng.uniform(0, 2 * np.pi, count))
    )
    down = np.exp(1j * np.outer(y.ravel(), length * np.sin(angle)))
    field: Array = np.sqrt(2 / count) * (down.real @ across.real.T - down.imag @ across.imag.T)
    return field
