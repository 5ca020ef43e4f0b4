"""The registry of all codes that a check of a hospital's data may report.

`consortium.core.findings` accepts only codes that are listed here, with their severity.
`consortium check-data` prints the advice; `docs/findings.md` and the tables in the jobs' READMEs
are generated from this module (`scripts/docs`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

Severity = Literal["error", "warning"]


class DataKind(Enum):
    """The kinds of data that a hospital's folder may hold, as documents name them."""

    SCANS = "scans"
    XRAYS = "X-rays"
    TABLES = "tables"


@dataclass(frozen=True, slots=True)
class FindingCode:
    """The meaning of a code and the advice for the hospital.

    Attributes:
        code: short and stable, lower-case words joined by hyphens.
        severity: an `error` makes the folder unfit for training; a person checks a `warning`.
        kinds: the kinds of data whose checks report it.
        when: what the check saw, as a clause without a capital or a full stop.
        advice: what to do, in sentences.
    """

    code: str
    severity: Severity
    kinds: tuple[DataKind, ...]
    when: str
    advice: str


_SCANS, _XRAYS, _TABLES = DataKind.SCANS, DataKind.XRAYS, DataKind.TABLES

_ALL = (
    FindingCode(
        "absent-label",
        "warning",
        (_SCANS,),
        "no mask holds a structure of the job (without a job: a label of dataset.json)",
        "Check that none of these patients has the structure.",
    ),
    FindingCode(
        "affine-mismatch",
        "error",
        (_SCANS,),
        "image and mask lie more than 0.1 voxel apart, or in different DICOM frames of reference",
        "Resample the mask to its image, or export both again.",
    ),
    FindingCode(
        "bad-affine",
        "error",
        (_SCANS,),
        "the affine is singular or not finite, or the DICOM axes are not orthogonal",
        "Export the file again with its geometry.",
    ),
    FindingCode(
        "bad-split",
        "error",
        (_XRAYS, _TABLES),
        "the column split holds a value other than training and validation",
        "Write training or validation, or leave the column out.",
    ),
    FindingCode(
        "burnt-in-text",
        "warning",
        (_XRAYS,),
        "letters are near the border, or the header reports burnt-in text",
        "Cover the text if it names a patient, or export the X-ray without annotations. A "
        "network can recognise a hospital by it.",
    ),
    FindingCode(
        "channel-mismatch",
        "error",
        (_SCANS,),
        "the channels of a patient differ in grid or DICOM frame of reference",
        "Resample the channels to one grid, or export those of one examination.",
    ),
    FindingCode(
        "colour-image",
        "error",
        (_XRAYS,),
        "an X-ray is in colour",
        "Export the X-ray in grey, without drawings and annotations.",
    ),
    FindingCode(
        "constant-image",
        "warning",
        (_SCANS, _XRAYS),
        "a channel or an X-ray has one value only",
        "Export the image again, or remove the case: it is blank.",
    ),
    FindingCode(
        "duplicate-channel",
        "warning",
        (_SCANS,),
        "a channel is a copy of another channel",
        "Keep the case only if a missing sequence was replaced by another on purpose.",
    ),
    FindingCode(
        "duplicate-file",
        "error",
        (_XRAYS,),
        "a file is listed twice",
        "List every X-ray once.",
    ),
    FindingCode(
        "duplicate-image",
        "error",
        (_SCANS, _XRAYS),
        "two patients have the same voxels or pixels",
        "Keep one of the two, with the right patient.",
    ),
    FindingCode(
        "duplicate-mask",
        "error",
        (_SCANS,),
        "two entries share a mask file",
        "Give each image a mask of its own.",
    ),
    FindingCode(
        "duplicate-patient",
        "error",
        (_SCANS, _TABLES),
        "two entries or rows name the same patient or the same image file",
        "List every patient once.",
    ),
    FindingCode(
        "duplicate-slice",
        "error",
        (_SCANS,),
        "several DICOM slices have one position: echoes, time points or copies",
        "Put one echo, time point or b-value into a folder. Remove copies of files.",
    ),
    FindingCode(
        "empty-mask",
        "warning",
        (_SCANS,),
        "a mask labels no voxel",
        "Check that the patient has no labelled structure.",
    ),
    FindingCode(
        "empty-series",
        "error",
        (_SCANS,),
        "a DICOM folder holds no file",
        "Copy the files of the series into the folder, one folder a series.",
    ),
    FindingCode(
        "empty-validation",
        "error",
        (_XRAYS, _TABLES),
        "no patient is left for validation",
        "Set patients aside for validation.",
    ),
    FindingCode(
        "identifying-header",
        "warning",
        (_SCANS, _XRAYS),
        "a DICOM header holds a name, a date of birth or similar data",
        "De-identify the files if your rules require it.",
    ),
    FindingCode(
        "intensity-outlier",
        "warning",
        (_SCANS,),
        "the standard deviation of a channel is far from the hospital's median, by a factor of "
        "4 or more",
        "Check that the file was exported like the others: same units, same bit depth.",
    ),
    FindingCode(
        "inverted-image",
        "warning",
        (_XRAYS,),
        "an X-ray is dark where the hospital's other X-rays are bright",
        "Invert the X-ray if it is a negative: bone must be white. Otherwise keep it.",
    ),
    FindingCode(
        "label-name",
        "warning",
        (_SCANS,),
        "a label has no name, or the job gives the value another name",
        "Check that the value means the same here and in the job.",
    ),
    FindingCode(
        "missing-column",
        "error",
        (_XRAYS, _TABLES),
        "a required column is missing",
        "Export the column too, under this name.",
    ),
    FindingCode(
        "missing-file",
        "error",
        (_SCANS, _XRAYS),
        "a listed file or folder does not exist",
        "Copy the file there, or remove its entry from the list.",
    ),
    FindingCode(
        "missing-geometry",
        "error",
        (_SCANS,),
        "a DICOM slice has no position, orientation or spacing",
        "Export the series again from the archive, as the scanner wrote it.",
    ),
    FindingCode(
        "missing-rescale",
        "error",
        (_SCANS,),
        "a CT or PET series, or a part of its slices, has no rescale slope",
        "Export the series again from the archive, with its rescaling.",
    ),
    FindingCode(
        "missing-slices",
        "error",
        (_SCANS,),
        "a DICOM series has a gap between its slices",
        "Send the series again from the archive: files were lost on the way.",
    ),
    FindingCode(
        "missing-value",
        "warning",
        (_XRAYS, _TABLES),
        "rows without a value are left out",
        "Complete these rows, or accept that they are left out.",
    ),
    FindingCode(
        "mixed-orientation",
        "error",
        (_SCANS,),
        "DICOM slices differ in orientation, as with a localizer",
        "Remove the localizer, or give each orientation a folder of its own.",
    ),
    FindingCode(
        "mixed-slices",
        "error",
        (_SCANS,),
        "DICOM slices differ in size, spacing or frame of reference",
        "Keep the slices of one acquisition.",
    ),
    FindingCode(
        "no-decoder",
        "error",
        (_SCANS, _XRAYS),
        "a DICOM file is compressed in a way that this package cannot decode",
        "Decompress the files (dcmdjpeg or gdcmconv --raw), then list them.",
    ),
    FindingCode(
        "non-integer-label",
        "error",
        (_SCANS,),
        "a mask holds a fraction",
        "Resample the mask with nearest neighbours, or export it again.",
    ),
    FindingCode(
        "not-a-number",
        "error",
        (_TABLES,),
        "a column of numbers holds a value that is not a number",
        "Write a number with a decimal point, or leave the field empty if it is not known.",
    ),
    FindingCode(
        "not-finite",
        "error",
        (_SCANS,),
        "an image or a mask holds NaN or infinity",
        "Export the file again, without NaN or infinity.",
    ),
    FindingCode(
        "nothing-to-train",
        "error",
        (_SCANS, _XRAYS, _TABLES),
        "no patient is left for training",
        "Leave patients for training.",
    ),
    FindingCode(
        "one-class",
        "error",
        (_TABLES,),
        "all patients are of one class",
        "Add patients of the other class, or do not take part: a model needs both.",
    ),
    FindingCode(
        "one-class-training",
        "warning",
        (_XRAYS, _TABLES),
        "all patients for training are of one class",
        "Check the split. A local model would learn nothing from these patients.",
    ),
    FindingCode(
        "one-class-xrays",
        "warning",
        (_XRAYS,),
        "all X-rays are of one class",
        "Take part only together with other hospitals. A local model would learn nothing.",
    ),
    FindingCode(
        "other-view",
        "warning",
        (_XRAYS,),
        "X-rays of views that the job does not use are left out",
        "Check the view. The setting data.views names the views that the job uses.",
    ),
    FindingCode(
        "out-of-range",
        "error",
        (_TABLES,),
        "a number lies outside the range of the job",
        "Convert the column to the job's unit, or correct the value.",
    ),
    FindingCode(
        "outside-folder",
        "error",
        (_SCANS, _XRAYS),
        "an entry is an absolute path or contains `..`; the file is not opened",
        "Put the file into the folder and list it by its path inside.",
    ),
    FindingCode(
        "overlapping-segments",
        "warning",
        (_SCANS,),
        "DICOM segments share voxels; the last segment is used",
        "Check that the later segment is right where both overlap.",
    ),
    FindingCode(
        "repeated-image",
        "warning",
        (_XRAYS,),
        "two X-rays of one patient have the same pixels",
        "List one of the two.",
    ),
    FindingCode(
        "several-scans",
        "warning",
        (_SCANS,),
        "a patient has several scans; they stay on one side of the split",
        "List one scan of each patient, unless several are intended.",
    ),
    FindingCode(
        "several-series",
        "error",
        (_SCANS,),
        "a DICOM folder holds files of several series",
        "Give each series a folder of its own and list the right one.",
    ),
    FindingCode(
        "shape-mismatch",
        "error",
        (_SCANS,),
        "image and mask have different shapes",
        "Check that the mask belongs to this image. Resample it, or export both again.",
    ),
    FindingCode(
        "sixteen-bit",
        "warning",
        (_XRAYS,),
        "an X-ray has 16 bits a pixel; the bits in use define white",
        "Check that the reported value is white. If it is not, export 8 bits, or DICOM.",
    ),
    FindingCode(
        "size-outlier",
        "warning",
        (_SCANS,),
        "the number of voxels along an axis is far from the hospital's median, by a factor of 2"
        " or more",
        "Check that it is the right scan, of the right part of the body, and complete.",
    ),
    FindingCode(
        "spacing-outlier",
        "warning",
        (_SCANS,),
        "the voxel spacing is far from the hospital's median, by a factor of 1.5 or more",
        "Check that it is the right scan and that its header is right.",
    ),
    FindingCode(
        "split-patient",
        "error",
        (_XRAYS,),
        "a patient is on both sides of the split, so the score would be too good",
        "Put all X-rays of a patient on one side.",
    ),
    FindingCode(
        "tilted-series",
        "error",
        (_SCANS,),
        "DICOM slices are shifted against each other, as with a tilted gantry",
        "Correct the tilt (dcm2niix does) and list the NIfTI file.",
    ),
    FindingCode(
        "tiny-image",
        "warning",
        (_XRAYS,),
        "an X-ray has a side of fewer than 64 pixels",
        "Export the X-ray itself if this is a preview.",
    ),
    FindingCode(
        "too-few-patients",
        "warning",
        (_SCANS, _XRAYS, _TABLES),
        "fewer than 5 patients are listed",
        "Add patients. By default a hospital with fewer than 5 for training takes no part.",
    ),
    FindingCode(
        "uneven-slices",
        "error",
        (_SCANS,),
        "DICOM slices lie more than 0.1 voxel off an even stack",
        "Resample the series to even slices and list it as NIfTI.",
    ),
    FindingCode(
        "unknown-label",
        "error",
        (_SCANS, _XRAYS, _TABLES),
        "a mask, an outcome or a label holds a value that has no name",
        "Correct the value in the voxels or the row. The names are in dataset.json or in the "
        "job's settings.",
    ),
    FindingCode(
        "unknown-segment",
        "error",
        (_SCANS,),
        "the name of a DICOM segment is no label of dataset.json",
        "Rename the segment, or the label in dataset.json, so that both agree.",
    ),
    FindingCode(
        "unknown-value",
        "error",
        (_TABLES,),
        "a column of categories holds a value that the job does not know",
        "Write the category as the job does.",
    ),
    FindingCode(
        "unknown-view",
        "warning",
        (_XRAYS,),
        "the view of an X-ray is not known; the X-ray is used",
        "Add a column view if lateral X-rays may be among them.",
    ),
    FindingCode(
        "unreadable-file",
        "error",
        (_SCANS, _XRAYS),
        "a file is damaged, has no known format, holds no numbers or cannot be read for lack of "
        "permission",
        "Copy or export the file again.",
    ),
    FindingCode(
        "wrong-channels",
        "error",
        (_SCANS,),
        "the number of channels differs from dataset.json, or their names differ from the job's",
        "Put the channels into the job's order, or correct modality in dataset.json.",
    ),
    FindingCode(
        "wrong-dimensions",
        "error",
        (_SCANS, _XRAYS),
        "an image is not 3-D or 4-D, a mask not 3-D, or an X-ray has several frames",
        "Export the file as one volume, or as one X-ray.",
    ),
)

FINDING_CODES: Mapping[str, FindingCode] = {entry.code: entry for entry in _ALL}
"""All finding codes by their code."""


def codes_of(kind: DataKind) -> tuple[FindingCode, ...]:
    """Lists what checks of such data may report: errors first, then by code."""
    chosen = (entry for entry in _ALL if kind in entry.kinds)
    return tuple(sorted(chosen, key=lambda entry: (entry.severity, entry.code)))
