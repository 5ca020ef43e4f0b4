"""DICOM segmentations (SEG): masks as an archive and a viewer keep them.

A segmentation lies on the pixels of the series that it was drawn on, each of its frames is one
segment on one slice, segments may overlap, and slices without a segment are left out. Reading one
gives a mask on the whole grid of its image; writing one needs the series that was segmented.

What is written is a function of the series, of the model and of the mask: UIDs are hashes of them,
and the content's date is the series' own. Of the optional dates none is written.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels import pixel_array
from pydicom.uid import generate_uid

from consortium.core.errors import Refused
from consortium.core.files import replace_file
from consortium.core.findings import error, warning
from consortium.imaging.dicom import (
    Series,
    UnusableSeries,
    affine_of,
    functional_groups,
    place_of_frame,
    quiet,
    reason,
)
from consortium.imaging.grids import Volume, place

_COPIED = {
    "PatientID": "",
    "PatientName": "",
    "PatientBirthDate": "",
    "PatientSex": "",
    "StudyID": "",
    "StudyDate": "",
    "StudyTime": "",
    "AccessionNumber": "",
    "ReferringPhysicianName": "",
}
"""What a segmentation repeats of its source, and must hold even where the source does not."""


@dataclass(frozen=True, slots=True)
class Algorithm:
    """What drew a segmentation.

    Attributes:
        name: of the model, at most 64 characters.
        version: of the model, at most 64 characters.
        software: version of this package.
    """

    name: str
    version: str
    software: str


def read_segmentation(
    path: Path,
    name: str,
    values: Mapping[str, int],
    shape: Sequence[int],
    affine: NDArray[np.float64],
) -> Volume:
    """Reads a binary segmentation as a mask on its image's grid.

    Args:
        path: the file.
        name: what findings call it.
        values: the mask's value of each segment's label, in lower case.
        shape: of the image, (x, y, slice).
        affine: of the image, voxel to mm.

    Returns:
        Voxels (x, y, slice); where segments overlap the one of the highest number is taken.

    Raises:
        UnusableSeries: `missing-file`, `unreadable-file`, `no-decoder`, `missing-geometry`,
            `unknown-segment`, or `affine-mismatch` where a frame is on none of the image's slices.
    """
    try:
        with quiet():
            dataset = pydicom.dcmread(path)
            if dataset.get("SegmentationType") != "BINARY":
                raise UnusableSeries(
                    error("unreadable-file", name, "a .dcm mask must be a binary segmentation")
                )
            paint = _values_of(dataset, name, values)
            return _on_image(dataset, name, paint, tuple(shape), affine)
    except UnusableSeries:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise UnusableSeries(error("missing-file", name, "no such file")) from None
    except Exception as problem:  # a damaged file makes pydicom raise nearly anything
        raise UnusableSeries(error("unreadable-file", name, reason(problem))) from problem


def _values_of(dataset: Any, name: str, values: Mapping[str, int]) -> dict[int, int]:
    """The mask's value of each segment's number."""
    found = {}
    for segment in dataset.SegmentSequence:
        label = str(segment.SegmentLabel).strip()
        if label.casefold() not in values:
            detail = f"segment {segment.SegmentNumber} is called {label}"
            raise UnusableSeries(error("unknown-segment", name, detail))
        found[int(segment.SegmentNumber)] = values[label.casefold()]
    return found


def _on_image(
    dataset: Any,
    name: str,
    paint: Mapping[int, int],
    shape: tuple[int, ...],
    affine: NDArray[np.float64],
) -> Volume:
    planes = pixel_array(dataset).reshape(-1, dataset.Rows, dataset.Columns)
    mask = np.zeros(shape, np.uint8 if max(paint.values(), default=0) < 256 else np.int32)
    frames = []
    for plane, group in zip(planes, functional_groups(dataset), strict=True):
        number = int(group("SegmentIdentificationSequence").ReferencedSegmentNumber)
        frames.append((number, plane.T[..., np.newaxis], place_of_frame(group, name)))
    overlap = 0
    for number, plane, (position, orientation, spacing) in sorted(frames, key=lambda f: f[0]):
        # One slice has no distance to the next: that of the image along its normal is taken.
        normal = np.cross(*orientation) * (-1, -1, 1)
        axis = int(np.abs(np.linalg.solve(affine[:3, :3], normal)).argmax())
        lies = affine_of(position, orientation, spacing, affine[:3, axis] * (-1, -1, 1))
        found = place(plane.shape, lies, shape, affine)
        if found is None:
            detail = "a frame of the segmentation lies on none of the image's slices"
            raise UnusableSeries(error("affine-mismatch", name, detail))
        here, there = mask[found.where], found(plane) > 0
        overlap += int(((here > 0) & (here != paint[number]) & there).sum())
        here[there] = paint[number]
    notes = (
        (warning("overlapping-segments", name, f"{overlap} voxels are in several segments"),)
        if overlap
        else ()
    )
    return Volume(name, mask, affine, str(dataset.get("FrameOfReferenceUID") or ""), notes)


def write_segmentation(
    path: Path,
    structures: Mapping[str, NDArray[np.uint8]],
    series: Series,
    algorithm: Algorithm,
) -> None:
    """Writes what was found in a series, whole or not at all.

    Each structure is a segment of its own, coded as a neoplasm among the morphologically altered
    structures (SNOMED CT 108369006, 49755003); segments may overlap, and one may be empty.

    Args:
        path: ends in .dcm.
        structures: by name, voxels (column, row, slice) of zeros and ones on the series' grid.
        series: the series that was segmented.
        algorithm: what segmented it.

    Raises:
        Refused: `no-segmentation` where the series lacks what a segmentation must repeat.
        EnvironmentProblem: `disk-full` or `cannot-write`.
    """
    try:
        with quiet():
            dataset = _segmentation(structures, series, algorithm)
    except Refused:
        raise
    except Exception as problem:
        raise Refused(
            "no-segmentation",
            f"the series' headers do not allow a DICOM segmentation ({type(problem).__name__})",
            series.file,
            "write the mask as .nii.gz",
        ) from problem
    replace_file(path, lambda beside: dataset.save_as(beside, enforce_file_format=True))


def _segmentation(
    structures: Mapping[str, NDArray[np.uint8]], series: Series, algorithm: Algorithm
) -> Any:
    import highdicom

    sources = series.datasets
    order = np.arange(len(series.frames))
    if series.frames[0].index is not None:
        order = np.argsort([frame.index or 0 for frame in series.frames])
    first = sources[0]
    for keyword in (
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "SOPInstanceUID",
        "FrameOfReferenceUID",
    ):
        if not all(source.get(keyword) for source in sources):
            raise _lacks(keyword, series)
    if len(sources) > 1 and series.frames[0].index is not None:
        raise _lacks("one multi-frame file, or one file a slice", series)
    for keyword, default in _COPIED.items():
        if keyword not in first:
            setattr(first, keyword, default)
    step = float(np.linalg.norm(series.affine[:3, 2]))
    if series.frames[0].index is None and "SliceThickness" not in first:
        first.SliceThickness = step
    if first.PatientSex not in ("M", "F", "O"):
        first.PatientSex = ""
    pixels = np.stack([voxels.T[order] for voxels in structures.values()], axis=-1)
    names = [algorithm.name, algorithm.version, algorithm.software]
    uids = [str(source.SOPInstanceUID) for source in sources]
    content = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
    dates = _dates(first)
    found = highdicom.AlgorithmIdentificationSequence(
        name=algorithm.name,
        family=highdicom.sr.CodedConcept("123109", "DCM", "Artificial Intelligence"),
        version=algorithm.version,
    )
    dataset = highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=pixels.astype(np.uint8),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            highdicom.seg.SegmentDescription(
                segment_number=number,
                segment_label=name[:64],
                segmented_property_category=_code("49755003", "Morphologically Altered Structure"),
                segmented_property_type=_code("108369006", "Neoplasm"),
                algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=found,
            )
            for number, name in enumerate(structures, start=1)
        ],
        series_instance_uid=generate_uid(entropy_srcs=["series", *names, first.SeriesInstanceUID]),
        series_number=int(first.get("SeriesNumber") or 0) % 10_000 + 10_000,
        sop_instance_uid=generate_uid(entropy_srcs=["instance", *names, *uids, content]),
        instance_number=1,
        manufacturer="Consortium",
        manufacturer_model_name="consortium predict",
        software_versions=algorithm.software,
        device_serial_number=algorithm.version,
        content_label="SEGMENTATION",
        content_description="Segmented by a model. For research, not diagnosis",
        series_description=f"Segmentation by {algorithm.name}"[:64],
        pixel_measures=highdicom.PixelMeasuresSequence(
            pixel_spacing=list(series.frames[0].spacing),
            slice_thickness=step,
            spacing_between_slices=step,
        ),
        **dates,
    )
    dimensions = generate_uid(entropy_srcs=["dimensions", *names, *uids, content])
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions
    del dataset.InstanceCreationDate, dataset.InstanceCreationTime
    for item in dataset.get("ContributingEquipmentSequence") or []:
        if item.get("ManufacturerModelName") == "highdicom":
            item.pop("ContributionDateTime", None)
    return dataset


def _code(value: str, meaning: str) -> Any:
    import highdicom

    return highdicom.sr.CodedConcept(value, "SCT", meaning)


def _dates(source: Any) -> dict[str, Any]:
    """The content's date and time, which must be there: the series' own, so that bytes repeat."""
    for kind in ("Content", "Acquisition", "Series", "Study"):
        date, time = source.get(f"{kind}Date"), source.get(f"{kind}Time")
        if date and time:
            return {"content_date": date, "content_time": time}
    return {"content_date": source.get("StudyDate") or "19000101", "content_time": "000000"}


def _lacks(what: str, series: Series) -> Refused:
    return Refused(
        "no-segmentation", f"the series lacks {what}", series.file, "write the mask as .nii.gz"
    )
