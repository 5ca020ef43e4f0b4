"""A DICOM series, read without trust: a folder of one series' files, or one multi-frame file.

* Slices are ordered by where they lie in the patient, never by their names or numbers, and only a
  stack that is whole, even and of one orientation is a volume. Anything else is a finding.
* The volume is the one that the same scan has as NIfTI: axes (column, row, slice), an affine to
  mm to the right, front and up, and the scanner's rescaling (the modality LUT) applied.
* What the headers say about the patient is never told: findings name attributes, not their values.

What dcm2niix and others write may run along the same axes in another direction. A mask of such a
file fits all the same; see `consortium.imaging.grids.on_grid`.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_modality_lut, get_decoder, pixel_array
from pydicom.uid import JPEGExtended12Bit

from consortium.core.findings import Finding, error, warning

IDENTIFYING = (
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
"""Attributes that name or nearly name a patient; a pseudonym in PatientID is needed and is none."""

TOLERANCE = 0.1
"""How far a slice may lie from its place in an even stack, in units of the smallest voxel side."""

_RESCALED = ("CT", "PT")
"""Modalities whose stored values mean nothing unscaled (DICOM PS3.3, C.8.2 and C.8.9)."""


Place = tuple[NDArray[np.float64], NDArray[np.float64], tuple[float, float]]


class UnusableSeries(Exception):
    """There is no volume in what was read; `finding` says why."""

    def __init__(self, finding: Finding):
        self.finding = finding
        super().__init__(finding.detail)


@dataclass(frozen=True, slots=True)
class Frame:
    """One slice: where it lies, and where its pixels are.

    Attributes:
        path: of the file that holds it.
        file: what findings call that file.
        dataset: the file's headers, without pixels.
        index: of the frame in a multi-frame file; None in a file of one slice.
        position: centre of the first pixel, mm to the left, back and up (DICOM's LPS).
        orientation: directions of a row and of a column, LPS, unit length.
        spacing: mm between rows and between columns.
        rescale: slope and intercept of a multi-frame file's frame; None where there are none.
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
    """A series whose headers make a volume.

    Attributes:
        file: its folder or file, as findings name it.
        frames: its slices, each a step along the normal of the one before.
        shape: columns, rows, slices.
        affine: 4 x 4, voxel (column, row, slice) to mm to the right, front and up.
        reference: UID of the frame of reference, or empty.
        notes: what a person should look at.
    """

    file: str
    frames: tuple[Frame, ...]
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    reference: str
    notes: tuple[Finding, ...]

    @property
    def datasets(self) -> list[Any]:
        """The files' headers in the order of the slices, each once."""
        return list({id(frame.dataset): frame.dataset for frame in self.frames}.values())

    def voxels(self) -> NDArray[Any]:
        """Reads and decodes the pixels.

        Returns:
            (column, row, slice): float32 where the headers rescale, else the type of the files.

        Raises:
            UnusableSeries: `unreadable-file`.
        """
        planes: dict[int, NDArray[Any]] = {}
        for dataset in self.datasets:
            mine = [i for i, frame in enumerate(self.frames) if frame.dataset is dataset]
            try:
                with quiet():
                    planes.update(_planes({i: self.frames[i] for i in mine}))
            except Exception as problem:  # a damaged file makes pydicom raise nearly anything
                detail = f"its pixels cannot be read ({reason(problem)})"
                file = self.frames[mine[0]].file
                raise UnusableSeries(error("unreadable-file", file, detail)) from problem
        stacked = np.stack([planes[i] for i in range(len(self.frames))], axis=-1)
        return np.ascontiguousarray(stacked.swapaxes(0, 1))


def open_series(path: Path, name: str) -> Series:
    """Reads the headers of a series and finds its geometry.

    Args:
        path: a folder of one series' files, or one multi-frame file.
        name: what findings call it.

    Raises:
        UnusableSeries: with the one finding that says why; see
            `consortium.tasks.segmentation.checks`.
    """
    with quiet():
        frames = [frame for file, label in _files(path, name) for frame in _read(file, label)]
        return _assemble(frames, name)


@contextmanager
def quiet() -> Iterator[None]:
    """Without pydicom's warnings: they are findings or harmless, and may quote a patient's data."""
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
        raise UnusableSeries(error("unreadable-file", name, reason(problem))) from problem
    if not files:
        folders = sum(file.is_dir() for file in inside)
        detail = (
            f"no file in the folder, but {folders} folders" if folders else "the folder is empty"
        )
        raise UnusableSeries(error("empty-series", name, detail))
    return files


def _read(path: Path, name: str) -> list[Frame]:
    """The frames of a file, without their pixels."""
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        if "Rows" not in dataset or "SegmentSequence" in dataset:
            raise UnusableSeries(no_image(dataset, name))
        if not can_decode(dataset):
            raise UnusableSeries(no_decoder(dataset, name))
        if dataset.get("SamplesPerPixel", 1) != 1:
            raise UnusableSeries(error("unreadable-file", name, "a colour image"))
        return _frames(path, dataset, name)
    except UnusableSeries:
        raise
    except Exception as problem:
        raise UnusableSeries(error("unreadable-file", name, reason(problem))) from problem


def no_image(dataset: Any, name: str) -> Finding:
    """The finding of a file that holds something else."""
    kind = dataset.get("SOPClassUID")
    return error(
        "unreadable-file", name, f"holds no image ({kind.name if kind else 'of no class'})"
    )


def no_decoder(dataset: Any, name: str) -> Finding:
    """The finding of a file that `can_decode` says no of."""
    syntax = dataset.file_meta.TransferSyntaxUID
    told = f"{dataset.BitsStored} bits a pixel, compressed as {syntax.name}"
    return error("no-decoder", name, told)


def can_decode(dataset: Any) -> bool:
    """Whether something here decodes the pixels of that file, by its header."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax == JPEGExtended12Bit and dataset.BitsStored != 8:  # its decoders know 8 bits alone
        return False
    try:
        if not syntax.is_compressed or syntax.is_deflated:
            return True
        return bool(get_decoder(syntax).is_available)
    except (NotImplementedError, ValueError):  # pydicom's words for one that it does not know
        return False


def _frames(path: Path, dataset: Any, name: str) -> list[Frame]:
    own = dataset.get("PerFrameFunctionalGroupsSequence")
    if own is None:
        if int(dataset.get("NumberOfFrames") or 1) > 1:
            detail = "several frames without a position of each"
            raise UnusableSeries(error("missing-geometry", name, detail))
        return [Frame(path, name, dataset, None, *place_of(dataset, dataset, dataset, name), None)]
    found = []
    for index, group in enumerate(functional_groups(dataset)):
        rescale = group("PixelValueTransformationSequence")
        slope, intercept = rescale.get("RescaleSlope"), rescale.get("RescaleIntercept")
        factors = None if slope is None or intercept is None else (float(slope), float(intercept))
        found.append(Frame(path, name, dataset, index, *place_of_frame(group, name), factors))
    return found


def functional_groups(dataset: Any) -> Iterator[Callable[[str], Any]]:
    """For each frame of a multi-frame file, what gives its own or the shared item of a sequence."""
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]
    for frame in dataset.PerFrameFunctionalGroupsSequence:

        def group(keyword: str, frame: Any = frame) -> Any:
            return (frame.get(keyword) or shared.get(keyword) or [pydicom.Dataset()])[0]

        yield group


def place_of_frame(group: Callable[[str], Any], name: str) -> Place:
    """Position, directions and spacing of a frame of a multi-frame file."""
    return place_of(
        group("PlanePositionSequence"),
        group("PlaneOrientationSequence"),
        group("PixelMeasuresSequence"),
        name,
    )


def place_of(position: Any, orientation: Any, measures: Any, name: str) -> Place:
    """Position, directions and spacing as in `Frame`, from the items that say them.

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
    return Series(name, tuple(ordered), shape, affine, reference, identifying(datasets, name))


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
        step: from slice to slice, mm, LPS.
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
    turned = sum(np.abs(f.orientation - frames[0].orientation).max() > 1e-3 for f in frames)
    if turned:
        detail = f"{turned} of {len(frames)} slices have another orientation than the first"
        raise UnusableSeries(error("mixed-orientation", name, detail))
    grids = {(f.dataset.get("Rows"), f.dataset.get("Columns")) for f in frames}
    stretched = any(not np.allclose(f.spacing, frames[0].spacing, rtol=1e-3) for f in frames)
    references = {str(f.dataset.get("FrameOfReferenceUID") or "") for f in frames}
    if len(grids) > 1 or stretched or len(references) > 1:
        what = "rows and columns" if len(grids) > 1 else "PixelSpacing"
        what = what if len(grids) > 1 or stretched else "FrameOfReferenceUID"
        raise UnusableSeries(error("mixed-slices", name, f"slices differ in {what}"))


def _step(frames: Sequence[Frame], normal: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    """The vector from slice to slice, mm; the slices must make an even stack."""
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
        detail = f"{copies} of {len(frames)} slices lie where another lies"
        raise UnusableSeries(error("duplicate-slice", name, detail))
    gaps = np.flatnonzero(distances > 1.5 * usual)
    if len(gaps):
        missing = int(np.rint(distances[gaps] / usual - 1).sum())
        detail = (
            f"about {missing} missing of {len(frames) + missing}; "
            f"the first after {frames[gaps[0]].file}"
        )
        raise UnusableSeries(error("missing-slices", name, detail))
    step: NDArray[np.float64] = (positions[-1] - positions[0]) / (len(frames) - 1)
    if step @ normal < 0.999 * np.linalg.norm(step):
        angle = np.degrees(np.arccos(step @ normal / np.linalg.norm(step)))
        detail = f"slices are shifted against each other (tilt of {angle:.0f} degrees)"
        raise UnusableSeries(error("tilted-series", name, detail))
    even = positions[0] + np.arange(len(frames))[:, None] * step
    apart = float(np.linalg.norm(positions - even, axis=1).max())
    if apart > TOLERANCE * min(*frames[0].spacing, usual):
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
    given = [frame.dataset.get(key) is not None for key in ("RescaleSlope", "RescaleIntercept")]
    return all(given) or "ModalityLUTSequence" in frame.dataset


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


def identifying(datasets: Sequence[Any], name: str) -> tuple[Finding, ...]:
    """What headers hold that names a patient: attributes, never their values."""
    told = [
        keyword
        for keyword in IDENTIFYING
        if any(_identifies(dataset, keyword) for dataset in datasets)
    ]
    if not told:
        return ()
    return (warning("identifying-header", name, f"the headers hold {', '.join(told)}"),)


def _identifies(dataset: Any, keyword: str) -> bool:
    value = dataset.get(keyword)
    if not value:
        return False
    # De-identification writes the pseudonym into both.
    return keyword != "PatientName" or str(value) != str(dataset.get("PatientID") or "")


def reason(problem: Exception) -> str:
    """What an exception means, without its own words, which may quote what a header holds."""
    if isinstance(problem, InvalidDicomError):
        return "not a DICOM file"
    if isinstance(problem, MemoryError):
        return "its header asks for more memory than this machine has"
    if isinstance(problem, EOFError):
        return "damaged: cut off"
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    return f"damaged ({type(problem).__name__})"
