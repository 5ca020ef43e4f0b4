"""Draws pictures of scans with the outlines of masks.

Only generated scans are shown outside a hospital.
"""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion

_TRUTH, _PREDICTED = (64, 176, 255), (255, 193, 7)  # distinct in grey and to the colour-blind
_GREYS = 254
_GAP = 4


@dataclass(frozen=True, slots=True)
class Picture:
    """A generated scan with its masks, side by side.

    Attributes:
        hospital: name of the hospital.
        title: name of the hospital and the scan.
        caption: description of the picture, also for readers who cannot see it.
        png: content of the PNG file.
    """

    hospital: str
    title: str
    caption: str
    png: bytes


def side_by_side(
    scan: NDArray[np.floating],
    truth: NDArray[np.bool_],
    predicted: NDArray[np.bool_],
    *,
    height: int = 288,
) -> bytes:
    """Draws a slice three times: plain, with the true outline, with the predicted one.

    The picture has the radiological orientation: front up, the patient's right on the left.

    Args:
        scan: intensities, shape (x, y); x grows to the patient's right and y to the front, as in
            NIfTI.
        truth: the true mask, same shape.
        predicted: the predicted mask, same shape.
        height: height of the picture, pixels.

    Returns:
        A PNG of 254 greys and the two colours of the outlines.
    """
    low, high = np.percentile(scan, [1, 99.5])
    grey = np.clip((scan - low) / max(high - low, 1e-9), 0, 1)
    factor = max(1, height // scan.shape[1])
    panels = []
    nothing = np.zeros_like(truth)
    for mask, colour in ((nothing, 0), (truth, _GREYS), (predicted, _GREYS + 1)):
        panel = np.rint(_upright(grey, factor) * (_GREYS - 1)).astype(np.uint8)
        panel[_outline(_upright(mask, factor) > 0)] = colour
        panels.append(panel)
        panels.append(np.zeros((panel.shape[0], _GAP), np.uint8))
    picture = Image.fromarray(np.concatenate(panels[:-1], axis=1), mode="P")
    greys = np.rint(np.linspace(0, 255, _GREYS)).astype(np.uint8).repeat(3).tobytes()
    picture.putpalette(greys + bytes(_TRUTH) + bytes(_PREDICTED))
    out = io.BytesIO()
    picture.save(out, format="PNG", optimize=True)
    return out.getvalue()


def _upright(plane: NDArray[np.generic], factor: int) -> NDArray[np.floating]:
    rotated = np.asarray(plane, float).T[::-1, ::-1]
    return rotated.repeat(factor, axis=0).repeat(factor, axis=1)


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = binary_erosion(mask, iterations=3)
    return mask & ~inside
