"""Reads and validates a DICOM series: a folder of one series' files, or one multi-frame file.

* Slices are ordered by position in the patient, never by name or number. Only a complete, evenly
  spaced stack of one orientation is a volume; anything else is a finding.
* The volume equals that of the same scan as NIfTI: axes (column, row, slice), an affine to mm to
  the right, front and up, and the scanner's rescaling (the modality LUT) applied.
* Patient data in the headers are never reported: findings name attributes, not their values.

Files written by dcm2niix and other converters may have the same axes in the opposite direction. A
mask of such a file still fits; see `consortium.imaging.grids.align_to_grid`.
"""

import errno
import math
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset, read_preamble
from pydicom.pixels import apply_modality_lut, get_decoder, pixel_array
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGExtended12Bit

from consortium.core.findings import Finding, error, warning
from consortium.core.plain_files import require_plain
from consortium.core.plurals import plural

IDENTIFYING_ATTRIBUTES = (
    "PatientName",
    "PatientBirthDate",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "PatientMotherBirthName",
    "PatientBirthName",
    "OtherPatientNames",
    "OtherPatientIDs",
    "OtherPatientIDsSequence",
    "ResponsiblePerson",
)
"""Attributes that identify a patient. PatientID is not one: it must hold a pseudonym."""

TOLERANCE = 0.1
"""Maximum distance of a slice from its position in an evenly spaced stack, in units of the
smallest voxel side."""

MAX_INFLATED = 256 << 20
"""Bytes to which the data set of a deflated file may inflate; pydicom holds it several times."""
MAX_DECODED = 2 << 30
"""Bytes of pixels that a file may declare."""

_RESCALED = ("CT", "PT")
"""Modalities whose stored values have no unit without rescaling (DICOM PS3.3, C.8.2 and C.8.9)."""

_CHUNK = 1 << 20

PlaneGeometry = tuple[NDArray[np.float64], NDArray[np.float64], tuple[float, float]]
"""Position, orientation and spacing, as in `Frame`."""


class UnusableSeries(Exception):
    """The files do not make a volume; `finding` gives the reason."""

    def __init__(self, finding: Finding):
        self.finding = finding
        super().__init__(finding.detail)


@dataclass(frozen=True, slots=True)
class Frame:
    """One slice: its geometry and the file that holds its pixels.

    Attributes:
        path: path of the file that holds it.
        file: name of that file in findings.
        dataset: the file's headers, without pixels.
        index: index of the frame in a multi-frame file; None in a file of one slice.
        position: centre of the first pixel, mm to the left, back and up (DICOM's LPS).
        orientation: directions of a row and of a column, LPS, unit length.
        spacing: mm between rows and between columns.
        rescale: slope and intercept of a frame of a multi-frame file; None if it has none.
    """

    path: Path
    file: str
    dataset: Any
    index: int | None
    position: NDArray[np.float64]
    orientation: NDArray[np.float64]
    spacing: tuple[float, float]
    rescale: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Series:
    """A series whose headers describe a valid volume.

    Attributes:
        file: name of its folder or file in findings.
        frames: its slices, in order along the normal.
        shape: columns, rows, slices.
        affine: 4 x 4, voxel (column, row, slice) to mm to the right, front and up.
        reference: UID of the frame of reference, or empty.
        notes: warnings for a person to review.
    """

    file: str
    frames: tuple[Frame, ...]
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    reference: str
    notes: tuple[Finding, ...]

    @property
    def datasets(self) -> list[Any]:
        """The headers of each file, in the order of the slices."""
        return list({id(frame.dataset): frame.dataset for frame in self.frames}.values())

    def voxels(self) -> NDArray[Any]:
        """Reads and decodes the pixels.

        Returns:
            (column, row, slice): float32 if the headers rescale, else the type of the files.

        Raises:
            UnusableSeries: `unreadable-file`.
        """
        planes: dict[int, NDArray[Any]] = {}
        for dataset in self.datasets:
            indices = [i for i, frame in enumerate(self.frames) if frame.dataset is dataset]
            try:
                with suppress_warnings():
                    planes.update(_planes({i: self.frames[i] for i in indices}))
            except Exception as problem:  # a damaged file makes pydicom raise nearly anything
                detail = f"its pixels cannot be read ({describe_failure(problem)})"
                file = self.frames[indices[0]].file
                raise UnusableSeries(error("unreadable-file", file, detail)) from problem
        stacked = np.stack([planes[i] for i in range(len(self.frames))], axis=-1)
        return np.ascontiguousarray(stacked.swapaxes(0, 1))


def open_series(path: Path, name: str) -> Series:
    """Reads the headers of a series and determines its geometry.

    Args:
        path: a folder of one series' files, or one multi-frame file.
        name: name of the series in findings.

    Raises:
        UnusableSeries: the series is not a volume; see `consortium.core.finding_codes`.
    """
    with suppress_warnings():
        frames = [frame for file, label in _files(path, name) for frame in _read(file, label)]
        return _assemble(frames, name)


@contextmanager
def suppress_warnings() -> Iterator[None]:
    """Suppresses pydicom's warnings: they are findings or harmless, and may quote patient data."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def _files(path: Path, name: str) -> list[tuple[Path, str]]:
    try:
        if not path.is_dir():
            path.stat()
            return [(path, name)]
        inside = sorted(path.iterdir())
        files = [
            (file, f"{name}/{file.name}")
            for file in inside
            if file.is_file() and not file.name.startswith(".") and file.name != "DICOMDIR"
        ]
    except (FileNotFoundError, NotADirectoryError):
        raise UnusableSeries(error("missing-file", name, "no such folder or file")) from None
    except (OSError, ValueError) as problem:
        raise UnusableSeries(error("unreadable-file", name, describe_failure(problem))) from problem
    if not files:
        folders = sum(file.is_dir() for file in inside)
        detail = (
            f"no file in the folder, but {plural(folders, 'folder')}"
            if folders
            else "the folder is empty"
        )
        raise UnusableSeries(error("empty-series", name, detail))
    return files


def read_dicom(path: Path, **options: Any) -> Any:
    """Reads a file as `pydicom.dcmread` does, within limits of memory.

    Args:
        path: path of the file.
        options: of `dcmread`.

    Raises:
        OSError: it is no plain file, inflates to more than `MAX_INFLATED` bytes, or declares more
            than `MAX_DECODED` bytes of pixels.
        Exception: whatever pydicom raises.
    """
    require_plain(path)
    _require_small_inflated(path)
    dataset = pydicom.dcmread(path, **options)
    declared = [dataset.get(key) or 0 for key in ("Rows", "Columns", "BitsAllocated")]
    bits = math.prod(map(int, declared)) * int(dataset.get("NumberOfFrames") or 1)
    if bits // 8 * int(dataset.get("SamplesPerPixel") or 1) > MAX_DECODED:
        raise OSError(errno.EFBIG, f"declares more than {MAX_DECODED >> 20} MiB of pixels")
    return dataset


def _require_small_inflated(path: Path) -> None:
    """Inflates a deflated data set without keeping it; pydicom would keep all of it."""
    with path.open("rb") as file:
        read_preamble(file, force=False)
        meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
        if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            return
        stream, inflated = zlib.decompressobj(-zlib.MAX_WBITS), 0
        pending = file.read(_CHUNK)
        while pending and not stream.eof:
            inflated += len(stream.decompress(pending, _CHUNK))
            if inflated > MAX_INFLATED:
                raise OSError(errno.EFBIG, f"inflates to more than {MAX_INFLATED >> 20} MiB")
            pending = stream.unconsumed_tail or file.read(_CHUNK)


def _read(path: Path, name: str) -> list[Frame]:
    """Reads the frames of a file, without their pixels."""
    try:
        dataset = read_dicom(path, stop_before_pixels=True)
        if "Rows" not in dataset or "SegmentSequence" in dataset:
            raise UnusableSeries(no_image_finding(dataset, name))
        if not can_decode(dataset):
            raise UnusableSeries(no_decoder_finding(dataset, name))
        if dataset.get("SamplesPerPixel", 1) != 1:
            raise UnusableSeries(error("unreadable-file", name, "a colour image"))
        return _frames(path, dataset, name)
    except UnusableSeries:
        raise
    except Exception as problem:
        raise UnusableSeries(error("unreadable-file", name, describe_failure(problem))) from problem


def no_image_finding(dataset: Any, name: str) -> Finding:
    """The finding for a file that holds no image."""
    kind = dataset.get("SOPClassUID")
    return error(
        "unreadable-file", name, f"holds no image ({kind.name if kind else 'of no class'})"
    )


def no_decoder_finding(dataset: Any, name: str) -> Finding:
    """The finding for a file for which `can_decode` is false."""
    syntax = dataset.file_meta.TransferSyntaxUID
    detail = f"{dataset.BitsStored} bits a pixel, compressed as {syntax.name}"
    return error("no-decoder", name, detail)


def can_decode(dataset: Any) -> bool:
    """Whether an installed decoder supports the file's pixels, according to its header."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax == JPEGExtended12Bit and dataset.BitsStored != 8:  # its decoders support only 8 bits
        return False
    try:
        if not syntax.is_compressed or syntax.is_deflated:
            return True
        return bool(get_decoder(syntax).is_available)
    except (NotImplementedError, ValueError):  # pydicom does not know the syntax
        return False


def _frames(path: Path, dataset: Any, name: str) -> list[Frame]:
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    if groups is None:
        if int(dataset.get("NumberOfFrames") or 1) > 1:
            detail = "several frames without a position for each"
            raise UnusableSeries(error("missing-geometry", name, detail))
        return [
            Frame(path, name, dataset, None, *plane_geometry(dataset, dataset, dataset, name), None)
        ]
    frames = []
    for index, group in enumerate(functional_groups(dataset)):
        rescale = group("PixelValueTransformationSequence")
        slope, intercept = rescale.get("RescaleSlope"), rescale.get("RescaleIntercept")
        factors = None if slope is None or intercept is None else (float(slope), float(intercept))
        frames.append(Frame(path, name, dataset, index, *frame_geometry(group, name), factors))
    return frames


def functional_groups(dataset: Any) -> Iterator[Callable[[str], Any]]:
    """For each frame of a multi-frame file, a function that returns an item of a sequence.

    The item is the frame's own, else the one that all frames share, else empty.
    """
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]
    for frame in dataset.PerFrameFunctionalGroupsSequence:

        def group(keyword: str, frame: Any = frame) -> Any:
            return (frame.get(keyword) or shared.get(keyword) or [pydicom.Dataset()])[0]

        yield group


def frame_geometry(group: Callable[[str], Any], name: str) -> PlaneGeometry:
    """Position, orientation and spacing of a frame of a multi-frame file."""
    return plane_geometry(
        group("PlanePositionSequence"),
        group("PlaneOrientationSequence"),
        group("PixelMeasuresSequence"),
        name,
    )


def plane_geometry(position: Any, orientation: Any, measures: Any, name: str) -> PlaneGeometry:
    """Position, orientation and spacing, as in `Frame`.

    Args:
        position: the item that holds `ImagePositionPatient`.
        orientation: the item that holds `ImageOrientationPatient`.
        measures: the item that holds `PixelSpacing`.
        name: name of the file in findings.

    Raises:
        UnusableSeries: `missing-geometry` or `bad-affine`.
    """
    directions = _numbers(orientation, "ImageOrientationPatient", 6, name).reshape(2, 3)
    lengths = np.linalg.norm(directions, axis=1)
    if np.abs(lengths - 1).max() > 0.01 or abs(directions[0] @ directions[1]) > 0.01:
        detail = "directions of rows and columns are not at a right angle"
        raise UnusableSeries(error("bad-affine", name, detail))
    rows, columns = _numbers(measures, "PixelSpacing", 2, name)
    if not (rows > 0 and columns > 0):
        raise UnusableSeries(error("bad-affine", name, "PixelSpacing is not above 0"))
    corner = _numbers(position, "ImagePositionPatient", 3, name)
    return corner, directions, (float(rows), float(columns))


def _numbers(item: Any, keyword: str, count: int, name: str) -> NDArray[np.float64]:
    try:
        values = np.array([float(value) for value in item.get(keyword)], np.float64)
    except (TypeError, ValueError):
        values = np.zeros(0)
    if len(values) != count or not np.isfinite(values).all():
        raise UnusableSeries(error("missing-geometry", name, f"no usable {keyword}"))
    return values


def _assemble(frames: Sequence[Frame], name: str) -> Series:
    _require_one_series(frames, name)
    first = frames[0]
    normal = np.cross(*first.orientation)
    ordered = sorted(frames, key=lambda frame: float(frame.position @ normal))
    first = ordered[0]
    step = _step(ordered, normal, name)
    affine = affine_of(first.position, first.orientation, first.spacing, step)
    shape = (int(first.dataset.Columns), int(first.dataset.Rows), len(ordered))
    _require_rescaling(ordered, name)
    reference = str(first.dataset.get("FrameOfReferenceUID") or "")
    datasets = [frame.dataset for frame in frames]
    return Series(
        name, tuple(ordered), shape, affine, reference, identifying_headers(datasets, name)
    )


def affine_of(
    position: NDArray[np.float64],
    orientation: NDArray[np.float64],
    spacing: tuple[float, float],
    step: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The affine (column, row, slice) to mm to the right, front and up (DICOM PS3.3, C.7.6.2.1.1).

    Args:
        position: see `Frame`.
        orientation: see `Frame`.
        spacing: see `Frame`.
        step: vector from slice to slice, mm, LPS.
    """
    affine = np.eye(4)
    affine[:3, 0] = orientation[0] * spacing[1]
    affine[:3, 1] = orientation[1] * spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = position
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine + 0.0  # no negative zeros


def _require_one_series(frames: Sequence[Frame], name: str) -> None:
    series = {str(frame.dataset.get("SeriesInstanceUID")) for frame in frames}
    if len(series) > 1:
        raise UnusableSeries(error("several-series", name, f"{len(series)} series in one folder"))
    rotated = sum(np.abs(f.orientation - frames[0].orientation).max() > 1e-3 for f in frames)
    if rotated:
        detail = f"{rotated} of {len(frames)} slices have another orientation than the first"
        raise UnusableSeries(error("mixed-orientation", name, detail))
    grids = {(f.dataset.get("Rows"), f.dataset.get("Columns")) for f in frames}
    stretched = any(not np.allclose(f.spacing, frames[0].spacing, rtol=1e-3) for f in frames)
    references = {str(f.dataset.get("FrameOfReferenceUID") or "") for f in frames}
    if len(grids) > 1 or stretched or len(references) > 1:
        attribute = "rows and columns" if len(grids) > 1 else "PixelSpacing"
        attribute = attribute if len(grids) > 1 or stretched else "FrameOfReferenceUID"
        raise UnusableSeries(error("mixed-slices", name, f"slices differ in {attribute}"))


def _step(frames: Sequence[Frame], normal: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    """The vector from slice to slice, mm; refuses a stack that is not evenly spaced."""
    if len(frames) == 1:
        thickness = _thickness(frames[0])
        if not thickness > 0:
            raise UnusableSeries(
                error("missing-geometry", name, "one slice without SliceThickness")
            )
        return normal * thickness
    positions = np.array([frame.position for frame in frames])
    distances = np.diff(positions @ normal)
    usual = float(np.sort(distances)[(len(distances) - 1) // 2])
    copies = int((distances < max(0.01 * usual, 1e-3)).sum())
    if copies:
        detail = f"{copies} of {len(frames)} slices have the position of another slice"
        raise UnusableSeries(error("duplicate-slice", name, detail))
    gaps = np.flatnonzero(distances > 1.5 * usual)
    if len(gaps):
        missing = int(np.rint(distances[gaps] / usual - 1).sum())
        detail = (
            f"about {missing} of {len(frames) + missing} slices are missing; "
            f"the first gap is after {frames[gaps[0]].file}"
        )
        raise UnusableSeries(error("missing-slices", name, detail))
    step: NDArray[np.float64] = (positions[-1] - positions[0]) / (len(frames) - 1)
    if step @ normal < 0.999 * np.linalg.norm(step):
        angle = np.degrees(np.arccos(step @ normal / np.linalg.norm(step)))
        detail = f"slices are shifted against each other (tilt of {angle:.0f} degrees)"
        raise UnusableSeries(error("tilted-series", name, detail))
    even = positions[0] + np.arange(len(frames))[:, None] * step
    deviation = float(np.linalg.norm(positions - even, axis=1).max())
    if deviation > TOLERANCE * min(*frames[0].spacing, usual):
        low, high = float(distances.min()), float(distances.max())
        detail = f"slices lie {low:.3g} to {high:.3g} mm apart"
        raise UnusableSeries(error("uneven-slices", name, detail))
    return step


def _thickness(frame: Frame) -> float:
    sources = [frame.dataset]
    for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in (frame.dataset.get(keyword) or [])[:1]:
            sources += list(group.get("PixelMeasuresSequence") or [])
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        for source in sources:
            value = source.get(keyword)
            if value is not None and np.isfinite(float(value)):
                return abs(float(value))
    return 0.0


def _require_rescaling(frames: Sequence[Frame], name: str) -> None:
    without = sum(not _rescales(frame) for frame in frames)
    modality = str(frames[0].dataset.get("Modality"))
    if without and (without < len(frames) or modality in _RESCALED):
        detail = f"{without} of {len(frames)} {modality} slices without slope and intercept"
        raise UnusableSeries(error("missing-rescale", name, detail))


def _rescales(frame: Frame) -> bool:
    if frame.index is not None and frame.rescale is not None:
        return True
    present = [frame.dataset.get(key) is not None for key in ("RescaleSlope", "RescaleIntercept")]
    return all(present) or "ModalityLUTSequence" in frame.dataset


def _planes(frames: dict[int, Frame]) -> dict[int, NDArray[Any]]:
    """The rescaled pixels (row, column) of one file's frames."""
    first = next(iter(frames.values()))
    stored = pixel_array(first.path)
    if stored.shape[-2:] != (first.dataset.Rows, first.dataset.Columns):
        raise ValueError
    planes = {}
    for number, frame in frames.items():
        plane = stored if frame.index is None or stored.ndim == 2 else stored[frame.index]
        if frame.rescale is not None:
            plane = (plane * frame.rescale[0] + frame.rescale[1]).astype(np.float32)
        elif _rescales(frame):
            plane = apply_modality_lut(plane, frame.dataset).astype(np.float32)
        planes[number] = plane
    return planes


def identifying_headers(datasets: Sequence[Any], name: str) -> tuple[Finding, ...]:
    """Warns of attributes that identify a patient; names the attributes, never their values."""
    keywords = [
        keyword
        for keyword in IDENTIFYING_ATTRIBUTES
        if any(_identifies(dataset, keyword) for dataset in datasets)
    ]
    if not keywords:
        return ()
    return (warning("identifying-header", name, f"the headers hold {', '.join(keywords)}"),)


def _identifies(dataset: Any, keyword: str) -> bool:
    value = dataset.get(keyword)
    if not value:
        return False
    # De-identification writes the pseudonym into both.
    return keyword != "PatientName" or str(value) != str(dataset.get("PatientID") or "")


def describe_failure(problem: Exception) -> str:
    """Describes an exception without its own message, which may quote patient data."""
    if isinstance(problem, InvalidDicomError):
        return "not a DICOM file"
    if isinstance(problem, MemoryError):
        return "its header asks for more memory than this machine has"
    if isinstance(problem, EOFError):
        return "damaged: cut off"
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    return f"damaged ({type(problem).__name__})"
