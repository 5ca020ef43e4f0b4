"""Reads and validates scans and masks: every file becomes a volume or a finding.

NIfTI is read here; DICOM in `consortium.imaging.dicom`, which is imported only when needed.

* A path that leaves the hospital's folder is never opened. Symbolic links inside the folder are
  followed: the hospital made them, and large collections are often linked in.
* Nothing is written. Checks keep a few numbers of a volume, never its voxels.
* A gzip file is read to its end, where its checksum is. nibabel stops at the last voxel.
"""

import errno
import gzip
import hashlib
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.imageglobals import LoggingOutputSuppressor
from numpy.typing import NDArray

from consortium.core.findings import Finding, error
from consortium.core.plain_files import require_plain
from consortium.imaging.grids import Volume, corner_distance, same_grid

MAX_BYTES = 4 << 30
"""Bytes of voxels that a file may hold."""
_CHUNK = 1 << 22


@dataclass(frozen=True, slots=True)
class ChannelSummary:
    """The numbers that the checks keep of one channel.

    Attributes:
        not_finite: voxels that are NaN or infinite.
        constant: whether all finite voxels have the same value.
        spread: standard deviation of the finite voxels.
        digest: SHA-256 of the voxels.
    """

    not_finite: int
    constant: bool
    spread: float
    digest: bytes


def name_inside(folder: Path, path: Path) -> str | None:
    """The path relative to the folder, or None if it could lead out of the folder."""
    if not path.is_relative_to(folder) or ".." in path.relative_to(folder).parts:
        return None
    return str(path.relative_to(folder))


def read_image(folder: Path, image: Path | tuple[Path, ...]) -> Volume | Finding:
    """Reads an image that a hospital's `dataset.json` names.

    Args:
        folder: the hospital's folder, absolute.
        image: `folder` joined with the entry of `dataset.json`; several paths are one a channel.

    Returns:
        The volume, or the finding that explains why there is none: one of `read_volume`, or
        `channel-mismatch` if the channels have different grids or frames of reference.
    """
    if isinstance(image, Path):
        return read_volume(folder, image)
    channels: list[Volume] = []
    for path in image:
        channel = read_volume(folder, path)
        if isinstance(channel, Finding):
            return channel
        if finding := _channel_mismatch(channel, channels[0] if channels else channel):
            return finding
        channels.append(channel)
    stacked = np.stack([channel.voxels for channel in channels], axis=-1)
    notes = tuple(note for channel in channels for note in channel.notes)
    return replace(channels[0], voxels=stacked, notes=notes)


def _channel_mismatch(channel: Volume, first: Volume) -> Finding | None:
    """The finding for a channel that does not fit the first."""
    if channel.voxels.ndim != 3:
        detail = f"a file of one channel has 3 axes, this one {channel.voxels.ndim}"
    elif channel.voxels.shape != first.voxels.shape:
        detail = f"{channel.voxels.shape} voxels, {first.voxels.shape} in {first.file}"
    elif not same_grid(first.voxels.shape, channel.affine, first.affine):
        distance = corner_distance(first.voxels.shape, channel.affine, first.affine)
        detail = f"lies up to {distance:.3g} mm apart from {first.file}"
    elif channel.reference and first.reference and channel.reference != first.reference:
        detail = f"has another frame of reference than {first.file}"
    else:
        return None
    return error("channel-mismatch", channel.file, detail)


def read_mask(
    folder: Path,
    path: Path,
    values: Mapping[str, int],
    shape: Sequence[int],
    affine: NDArray[np.float64],
    reference: str = "",
) -> Volume | Finding:
    """Reads a mask that a hospital's `dataset.json` names: NIfTI, or a DICOM segmentation.

    Args:
        folder: the hospital's folder, absolute.
        path: `folder` joined with the entry of `dataset.json`.
        values: the mask's value for each name that a segment may have.
        shape: shape of the image, three numbers; a segmentation is placed on its grid.
        affine: affine of the image.
        reference: the image's frame of reference, if known.

    Returns:
        The mask, or the finding that explains why there is none.
    """
    file = name_inside(folder, path)
    if file is None or not is_dicom(path):
        return read_volume(folder, path)
    if path.is_dir():
        return error("unreadable-file", file, "a folder; a mask is one file")
    from consortium.imaging.dicom import UnusableSeries
    from consortium.imaging.dicom_seg import read_segmentation

    try:
        mask = read_segmentation(path, file, values, shape, affine)
    except UnusableSeries as problem:
        return problem.finding
    if reference and mask.reference and mask.reference != reference:
        detail = "mask and image have different frames of reference"
        return error("affine-mismatch", mask.file, detail)
    return mask


def read_volume(folder: Path, path: Path) -> Volume | Finding:
    """Reads a file or a DICOM series that a hospital's `dataset.json` names.

    Args:
        folder: the hospital's folder, absolute.
        path: `folder` joined with the entry of `dataset.json`.

    Returns:
        The volume, or the finding that explains why there is none: `outside-folder`,
        `missing-file`, `unreadable-file`, `bad-affine`, or a finding specific to DICOM.
    """
    file = name_inside(folder, path)
    if file is None:
        entry = path.relative_to(folder) if path.is_relative_to(folder) else path
        return error("outside-folder", "dataset.json", f"{entry} is not a path inside the folder")
    if is_dicom(path):
        return _read_dicom(path, file)
    try:
        image, voxels = _load(path)
    except (FileNotFoundError, NotADirectoryError):
        return error("missing-file", file, "no such file")
    except Exception as problem:  # a damaged file makes nibabel raise nearly anything
        return error("unreadable-file", file, _reason(problem))
    if voxels.dtype.kind not in "biuf":
        return error("unreadable-file", file, f"its voxels are {voxels.dtype}, not real numbers")
    affine = np.asarray(image.affine, np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-12:
        return error("bad-affine", file, "the header's affine cannot be inverted")
    return Volume(file, voxels, affine)


def is_dicom(path: Path) -> bool:
    """Whether a path is read as a DICOM series: a folder of files, or a file named .dcm."""
    try:
        return path.is_dir() or path.suffix.lower() == ".dcm"
    except (OSError, ValueError):  # an invalid file name
        return False


def _read_dicom(path: Path, file: str) -> Volume | Finding:
    from consortium.imaging.dicom import UnusableSeries, open_series

    try:
        series = open_series(path, file)
        return Volume(file, series.voxels(), series.affine, series.reference, series.notes)
    except UnusableSeries as problem:
        return problem.finding


def _load(path: Path) -> tuple[Any, NDArray[Any]]:
    require_plain(path)
    if path.name.endswith(".gz"):
        with gzip.open(path) as stream:
            inflated = 0
            while part := stream.read(_CHUNK):
                inflated += len(part)
                if inflated > MAX_BYTES:
                    raise _too_large()
    with LoggingOutputSuppressor(), np.errstate(all="ignore"):
        image = nib.load(path, mmap=False)
        if not isinstance(image, nib.Nifti1Image):
            raise ImageFileError
        require_size(image)
        scaled = (image.dataobj.slope, image.dataobj.inter) != (1, 0)
        voxels = np.asarray(image.dataobj, dtype=np.float32 if scaled else None)
    return image, voxels


def require_size(image: Any) -> None:
    """Refuses a NIfTI image whose header declares more than `MAX_BYTES`.

    Raises:
        OSError: it does.
    """
    if math.prod(map(int, image.shape)) * image.get_data_dtype().itemsize > MAX_BYTES:
        raise _too_large()


def _too_large() -> OSError:
    return OSError(errno.EFBIG, f"more than {MAX_BYTES >> 20} MiB of voxels")


def _reason(problem: Exception) -> str:
    if isinstance(problem, ImageFileError):
        return "not a NIfTI file"
    if isinstance(problem, gzip.BadGzipFile) and "Not a gzipped" in str(problem):
        return "its name ends in .gz, but it is not a gzip file"
    if isinstance(problem, (EOFError, zlib.error, gzip.BadGzipFile)):
        return "damaged: the compressed data are cut off or altered"
    if isinstance(problem, MemoryError):
        return "its header asks for more memory than this machine has"
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    if isinstance(problem, OSError):
        return "damaged: fewer voxels than its header says"
    return f"damaged ({type(problem).__name__})"


def summarise_channel(channel: NDArray[Any]) -> ChannelSummary:
    """Summarises one channel slice by slice, so that memory never holds a second copy.

    Args:
        channel: array (x, y, slice), not empty.
    """
    digest = hashlib.sha256()
    count, total, squares, origin = 0, 0.0, 0.0, 0.0
    lowest, highest = math.inf, -math.inf
    for plane in np.moveaxis(channel, -1, 0):
        digest.update(np.ascontiguousarray(plane.T).data)
        values = plane[np.isfinite(plane)].astype(np.float64)
        if not values.size:
            continue
        lowest, highest = min(lowest, values.min()), max(highest, values.max())
        origin = origin if count else float(values[0])  # against cancellation in the variance
        count += values.size
        with np.errstate(all="ignore"):
            values -= origin
            total += float(values.sum())
            squares += float(values @ values)
    variance = squares / count - (total / count) ** 2 if count else 0.0
    spread = math.sqrt(max(variance, 0.0)) if math.isfinite(variance) else math.inf
    return ChannelSummary(channel.size - count, not lowest < highest, spread, digest.digest())
