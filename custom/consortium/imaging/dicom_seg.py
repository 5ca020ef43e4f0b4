"""Reads and writes DICOM segmentations (SEG), the masks of archives and viewers.

A segmentation has the pixel grid of the series that it was drawn on. Each frame is one segment on
one slice, segments may overlap, and slices without a segment are left out. Reading gives a mask on
the whole grid of the image; writing needs the series that was segmented.

The bytes written depend on the series, the model and the mask alone: UIDs are hashes of them, and
the content's date is that of the series. Optional dates are not written.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels import pixel_array
from pydicom.uid import generate_uid

from consortium.core.errors import Refused
from consortium.core.files import replace_file
from consortium.core.findings import error, warning
from consortium.core.plurals import plural
from consortium.imaging.dicom import (
    Series,
    UnusableSeries,
    affine_of,
    describe_failure,
    frame_geometry,
    functional_groups,
    read_dicom,
    suppress_warnings,
)
from consortium.imaging.grids import Volume, find_placement

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
"""Attributes copied from the source, with the value for a source that lacks them."""


@dataclass(frozen=True, slots=True)
class Algorithm:
    """The model that made a segmentation.

    Attributes:
        name: name of the model, at most 64 characters.
        version: version of the model, at most 64 characters.
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
        path: path of the file.
        name: name of the file in findings.
        values: the mask's value for each segment label, in lower case.
        shape: shape of the image, (x, y, slice).
        affine: affine of the image, voxel to mm.

    Returns:
        Voxels (x, y, slice); where segments overlap, the one with the highest number counts.

    Raises:
        UnusableSeries: `missing-file`, `unreadable-file`, `no-decoder`, `missing-geometry`,
            `unknown-segment`, or `affine-mismatch` for a frame on none of the image's slices.
    """
    try:
        with suppress_warnings():
            dataset = read_dicom(path)
            if dataset.get("SegmentationType") != "BINARY":
                raise UnusableSeries(
                    error("unreadable-file", name, "a .dcm mask must be a binary segmentation")
                )
            value_of = _segment_values(dataset, name, values)
            return _on_image(dataset, name, value_of, tuple(shape), affine)
    except UnusableSeries:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise UnusableSeries(error("missing-file", name, "no such file")) from None
    except Exception as problem:  # a damaged file makes pydicom raise nearly anything
        raise UnusableSeries(error("unreadable-file", name, describe_failure(problem))) from problem


def _segment_values(dataset: Any, name: str, values: Mapping[str, int]) -> dict[int, int]:
    """The mask's value for each segment number."""
    value_of = {}
    for segment in dataset.SegmentSequence:
        label = str(segment.SegmentLabel).strip()
        if label.casefold() not in values:
            detail = f"segment {segment.SegmentNumber} is called {label}"
            raise UnusableSeries(error("unknown-segment", name, detail))
        value_of[int(segment.SegmentNumber)] = values[label.casefold()]
    return value_of


def _on_image(
    dataset: Any,
    name: str,
    value_of: Mapping[int, int],
    shape: tuple[int, ...],
    affine: NDArray[np.float64],
) -> Volume:
    planes = pixel_array(dataset).reshape(-1, dataset.Rows, dataset.Columns)
    mask = np.zeros(shape, np.uint8 if max(value_of.values(), default=0) < 256 else np.int32)
    frames = []
    for plane, group in zip(planes, functional_groups(dataset), strict=True):
        number = int(group("SegmentIdentificationSequence").ReferencedSegmentNumber)
        frames.append((number, plane.T[..., np.newaxis], frame_geometry(group, name)))
    overlap = 0
    for number, plane, (position, orientation, spacing) in sorted(frames, key=lambda f: f[0]):
        # A single slice has no slice distance, so the image's step along its normal is used.
        normal = np.cross(*orientation) * (-1, -1, 1)
        axis = int(np.abs(np.linalg.solve(affine[:3, :3], normal)).argmax())
        frame_affine = affine_of(position, orientation, spacing, affine[:3, axis] * (-1, -1, 1))
        placement = find_placement(plane.shape, frame_affine, shape, affine)
        if placement is None:
            detail = "a frame of the segmentation lies on none of the image's slices"
            raise UnusableSeries(error("affine-mismatch", name, detail))
        target, inside = mask[placement.region], placement(plane) > 0
        overlap += int(((target > 0) & (target != value_of[number]) & inside).sum())
        target[inside] = value_of[number]
    notes = (
        (
            warning(
                "overlapping-segments",
                name,
                f"{plural(overlap, 'voxel is', 'voxels are')} in several segments",
            ),
        )
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
    """Writes the structures segmented in a series, atomically.

    Each structure is one segment, coded as a neoplasm among the morphologically altered structures
    (SNOMED CT 108369006, 49755003). Segments may overlap or be empty.

    Args:
        path: ends in .dcm.
        structures: voxels (column, row, slice) of zeros and ones on the series' grid, by name.
        series: the series that was segmented.
        algorithm: the model that segmented it.

    Raises:
        Refused: `no-segmentation` for a series without the attributes that must be copied.
        EnvironmentProblem: `disk-full` or `cannot-write`.
    """
    try:
        with suppress_warnings():
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
    replace_file(path, lambda partial: dataset.save_as(partial, enforce_file_format=True))


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
    identification = highdicom.AlgorithmIdentificationSequence(
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
                algorithm_identification=identification,
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
    """The mandatory content date and time: the series' own, so that the bytes are reproducible."""
    for kind in ("Content", "Acquisition", "Series", "Study"):
        date, time = source.get(f"{kind}Date"), source.get(f"{kind}Time")
        if date and time:
            return {"content_date": date, "content_time": time}
    return {"content_date": source.get("StudyDate") or "19000101", "content_time": "000000"}


def _lacks(missing: str, series: Series) -> Refused:
    return Refused(
        "no-segmentation", f"the series lacks {missing}", series.file, "write the mask as .nii.gz"
    )
