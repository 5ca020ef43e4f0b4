"""Reads and validates X-rays: PNG, JPEG or DICOM becomes greys from 0 to 1, or a finding.

* Dense is bright, as a radiologist sees it: bone is white. The modality LUT and the window of a
  DICOM X-ray are applied, and inverted greys (MONOCHROME1) are inverted back.
* A valid X-ray is a single grey image. Colour, several frames and damage are findings.
* Patient data in the headers are never reported: findings name attributes, not their values.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array

from consortium.core.findings import Finding, error, warning
from consortium.core.plain_files import require_plain
from consortium.imaging.dicom import (
    can_decode,
    describe_failure,
    identifying_headers,
    no_decoder_finding,
    no_image_finding,
    read_dicom,
    suppress_warnings,
)

FORMATS = ("PNG", "JPEG")
MIN_SIDE = 3
MAX_PIXELS = 89_478_485
"""Pillow's limit, above which it warns of a decompression bomb."""

_GREY = 2
"""Maximum difference of a grey pixel's colours, in steps of 255: JPEG rounds."""
_MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
_BEYOND = 1e12
"""A value outside every window."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """An X-ray.

    Attributes:
        values: float32 (rows, columns), from 0 to 1; dense is bright.
        view: `ViewPosition` of a DICOM header, else empty.
        notes: warnings for a person to review.
    """

    values: NDArray[np.float32]
    view: str = ""
    notes: tuple[Finding, ...] = ()


class UnusableRadiograph(Exception):
    """The file is not a usable X-ray; `finding` gives the reason."""

    def __init__(self, finding: Finding):
        self.finding = finding
        super().__init__(finding.detail)


def read_pixels(path: Path, name: str) -> Pixels:
    """Reads an X-ray.

    Args:
        path: path of the file; DICOM is recognised by its content or its suffix `.dcm`.
        name: name of the file in findings.

    Raises:
        UnusableRadiograph: `missing-file`, `unreadable-file`, `colour-image`, `wrong-dimensions` or
            `no-decoder`.
    """
    try:
        with suppress_warnings():
            pixels = _read_dicom(path, name) if is_dicom(path) else _read_picture(path, name)
    except UnusableRadiograph:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise UnusableRadiograph(error("missing-file", name, "no such file")) from None
    except Exception as problem:  # a damaged file makes pillow and pydicom raise nearly anything
        raise UnusableRadiograph(
            error("unreadable-file", name, _describe_failure(problem))
        ) from problem
    if not np.isfinite(pixels.values).all():
        raise UnusableRadiograph(error("unreadable-file", name, "holds NaN or infinite values"))
    return pixels


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its content or its suffix `.dcm`.

    Raises:
        OSError: the path cannot be read, or is not a file.
    """
    require_plain(path)
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM" or path.suffix.lower() == ".dcm"


def read_view(path: Path) -> str:
    """`ViewPosition` of a DICOM file, from its header alone; empty if there is none."""
    try:
        with suppress_warnings():
            if not is_dicom(path):
                return ""
            header = read_dicom(path, specific_tags=["ViewPosition"], stop_before_pixels=True)
            return _view(header)
    except Exception:  # `read_pixels` reports the problem
        return ""


def _view(dataset: Any) -> str:
    return str(dataset.get("ViewPosition") or "").strip()


def _read_picture(path: Path, name: str) -> Pixels:
    with Image.open(path, formats=FORMATS) as opened:
        _require_size(opened.width, opened.height, name)
        # A JPEG of several pictures is an X-ray with its preview; such a PNG is an animation.
        pictures = getattr(opened, "n_frames", 1)
        if opened.format == "PNG" and pictures > 1:
            detail = f"{pictures} pictures; an X-ray has one"
            raise UnusableRadiograph(error("wrong-dimensions", name, detail))
        opened.load()
        picture = ImageOps.exif_transpose(opened)
    if picture.mode.startswith("I"):
        return _sixteen_bit(np.asarray(picture), name)
    if picture.mode == "L":
        return Pixels(np.asarray(picture, np.float32) / np.float32(255))
    colours = np.asarray(picture.convert("RGBA"))
    if (colours[..., 3] < 255).any():
        raise UnusableRadiograph(error("unreadable-file", name, "part of it is transparent"))
    spread = np.ptp(colours[..., :3], axis=-1)
    if spread.max() > _GREY:
        detail = f"{(spread > _GREY).mean():.2%} of its pixels are coloured"
        raise UnusableRadiograph(error("colour-image", name, detail))
    return Pixels(colours[..., :3].mean(-1, dtype=np.float32) / np.float32(255))


def _sixteen_bit(stored: NDArray[Any], name: str) -> Pixels:
    """Scales greys by the bits in use: archives keep 12 bits in files of 16."""
    bits = max(8, int(stored.max()).bit_length())
    white = 2**bits - 1
    detail = f"16 bits a pixel, of which {bits} are used; {white} is white"
    note = warning("sixteen-bit", name, detail)
    return Pixels(stored.astype(np.float32) / np.float32(white), notes=(note,))


def _read_dicom(path: Path, name: str) -> Pixels:
    dataset = read_dicom(path)
    _require_radiograph(dataset, name)
    notes = identifying_headers([dataset], name)
    if str(dataset.get("BurnedInAnnotation") or "").strip().upper() == "YES":
        notes += (warning("burnt-in-text", name, "its header says that text is burnt in"),)
    values = _shown(pixel_array(dataset), dataset).astype(np.float32)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        values = 1 - values
    return Pixels(values, _view(dataset), notes)


def _require_radiograph(dataset: Any, name: str) -> None:
    """Refuses a file that is not an X-ray according to its header."""
    if "Rows" not in dataset:
        raise UnusableRadiograph(no_image_finding(dataset, name))
    if not can_decode(dataset):
        raise UnusableRadiograph(no_decoder_finding(dataset, name))
    kind = str(dataset.PhotometricInterpretation)
    if dataset.get("SamplesPerPixel", 1) != 1 or kind not in _MONOCHROME:
        raise UnusableRadiograph(
            error("colour-image", name, "its header says that it is in colour")
        )
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise UnusableRadiograph(
            error("wrong-dimensions", name, f"{frames} frames; an X-ray has one")
        )
    if "PixelData" not in dataset:
        raise UnusableRadiograph(error("unreadable-file", name, "holds no pixels"))
    _require_size(int(dataset.Columns), int(dataset.Rows), name)


def _shown(stored: NDArray[Any], dataset: Any) -> NDArray[np.float64]:
    """Greys as displayed, from 0 to 1 (DICOM PS3.4, N.2): by the window, else by the range.

    The range leaves out the padding around the X-ray that the header declares.
    """
    scaled = apply_modality_lut(stored, dataset)
    shown = np.asarray(apply_voi_lut(scaled, dataset), np.float64)
    if dataset.get("VOILUTSequence"):
        low, high = 0.0, 2.0 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1
    elif all(dataset.get(name) is not None for name in ("WindowCenter", "WindowWidth")):
        low, high = apply_voi_lut(np.array([-_BEYOND, _BEYOND]), dataset)
    else:
        radiograph = shown[~_padding(stored, dataset)]
        low, high = (radiograph.min(), radiograph.max()) if radiograph.size else (0.0, 0.0)
    if low == high:
        return np.zeros_like(shown)
    share: NDArray[np.float64] = (shown - low) / (high - low)
    return share.clip(0.0, 1.0)


def _padding(stored: NDArray[Any], dataset: Any) -> NDArray[np.bool_]:
    """Padding pixels according to the header (DICOM PS3.3, C.7.5.1.1.2), (rows, columns)."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, bool)
    limit = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((value, value if limit is None else limit))
    return np.asarray((stored >= low) & (stored <= high))


def _require_size(columns: int, rows: int, name: str) -> None:
    if columns * rows > MAX_PIXELS:
        detail = f"{rows} x {columns} pixels; more than {MAX_PIXELS} are not read"
        raise UnusableRadiograph(error("unreadable-file", name, detail))
    if min(columns, rows) < MIN_SIDE:
        detail = f"{rows} x {columns} pixels; fewer than {MIN_SIDE} a side are no X-ray"
        raise UnusableRadiograph(error("unreadable-file", name, detail))


def _describe_failure(problem: Exception) -> str:
    """Describes an exception without its own message, which may quote patient data."""
    if isinstance(problem, UnidentifiedImageError):
        return "neither PNG, JPEG nor DICOM"
    if isinstance(problem, Image.DecompressionBombError):
        return f"more than {MAX_PIXELS} pixels"
    if isinstance(problem, OSError) and "truncated" in str(problem):
        return "damaged: cut off"
    return describe_failure(problem)
