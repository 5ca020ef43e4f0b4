"""NIfTI files, read without trust: whatever a file holds, reading it gives a volume or a finding.

* A path that leaves the hospital's folder is never opened. Symbolic links inside the folder are
  followed: the hospital made them, and large collections are often linked in.
* Nothing is written, and nothing outlives the volume: what is kept of it are a few numbers.
* A gzip file is read to its end, where its checksum is. nibabel stops at the last voxel.
"""

import gzip
import hashlib
import itertools
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.filebasedimages import ImageFileError
from nibabel.imageglobals import LoggingOutputSuppressor
from numpy.typing import NDArray

from consortium.data.findings import Finding, error

GRID_TOLERANCE = 0.1
"""How far a corner of a volume may lie from another's on the same grid, in units of the smallest
voxel spacing. Headers written by different programs differ by rounding, far less than that."""

_CHUNK = 1 << 22


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
class Volume:
    """A NIfTI file's voxels.

    Attributes:
        file: path relative to the hospital's folder.
        voxels: array (x, y, slice) or (x, y, slice, channel), in the type of the file; float32
            where the header scales it.
        affine: 4 x 4, voxel to mm; finite and invertible.
    """

    file: str
    voxels: NDArray[Any]
    affine: NDArray[np.float64]

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distances between voxels along x, y and z, in mm."""
        return tuple(float(size) for size in voxel_sizes(self.affine))


@dataclass(frozen=True, slots=True)
class Summary:
    """What is kept of one channel.

    Attributes:
        not_finite: voxels that are NaN or infinite.
        constant: whether all finite voxels have one value.
        spread: standard deviation of the finite voxels.
        digest: SHA-256 of the voxels.
    """

    not_finite: int
    constant: bool
    spread: float
    digest: bytes


def name_inside(folder: Path, path: Path) -> str | None:
    """The path relative to the folder, or None for one that could lead out of it."""
    if not path.is_relative_to(folder) or ".." in path.relative_to(folder).parts:
        return None
    return str(path.relative_to(folder))


def read_volume(folder: Path, path: Path) -> Volume | Finding:
    """Reads a file that a hospital's `dataset.json` names.

    Args:
        folder: the hospital's folder, absolute.
        path: `folder` joined with what `dataset.json` says.

    Returns:
        The volume, or the one finding that says why there is none: `outside-folder`,
        `missing-file`, `unreadable-file` or `bad-affine`.
    """
    file = name_inside(folder, path)
    if file is None:
        entry = path.relative_to(folder) if path.is_relative_to(folder) else path
        return error("outside-folder", "dataset.json", f"{entry} is not a path inside the folder")
    try:
        image, voxels = _load(path)
    except (FileNotFoundError, NotADirectoryError):
        return error("missing-file", file, "no such file")
    except Exception as problem:  # a damaged file makes nibabel raise nearly anything
        return error("unreadable-file", file, _reason(problem))
    if voxels.dtype.kind not in "biuf":
        return error("unreadable-file", file, f"voxels are {voxels.dtype}, not real numbers")
    affine = np.asarray(image.affine, np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-12:
        return error("bad-affine", file, "the header's affine cannot be inverted")
    return Volume(file, voxels, affine)


def _load(path: Path) -> tuple[Any, NDArray[Any]]:
    path.stat()
    if path.name.endswith(".gz"):
        with gzip.open(path) as stream:
            while stream.read(_CHUNK):
                pass
    with LoggingOutputSuppressor(), np.errstate(all="ignore"):
        image = nib.load(path, mmap=False)
        if not isinstance(image, nib.Nifti1Image):
            raise ImageFileError
        scaled = (image.dataobj.slope, image.dataobj.inter) != (1, 0)
        voxels = np.asarray(image.dataobj, dtype=np.float32 if scaled else None)
    return image, voxels


def _reason(problem: Exception) -> str:
    if isinstance(problem, ImageFileError):
        return "not a NIfTI file"
    if isinstance(problem, gzip.BadGzipFile) and "Not a gzipped" in str(problem):
        return "its name ends in .gz, but gzip did not make it"
    if isinstance(problem, (EOFError, zlib.error, gzip.BadGzipFile)):
        return "damaged: the compressed data are cut off or altered"
    if isinstance(problem, MemoryError):
        return "its header asks for more memory than this machine has"
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    if isinstance(problem, OSError):
        return "damaged: fewer voxels than its header says"
    return f"damaged ({type(problem).__name__})"


def summarise(channel: NDArray[Any]) -> Summary:
    """Summarises one channel slice by slice, so that no second copy of it is ever in memory.

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
    return Summary(channel.size - count, not lowest < highest, spread, digest.digest())
