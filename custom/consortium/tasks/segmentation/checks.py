"""The checks of one hospital's folder, before it trains.

* Bad data raise nothing: they become findings. Only a folder without a readable `dataset.json` is
  an error of usage, because then there is nothing to check.
* Nothing is written, and no file outside the folder is opened.
* One case is in memory at a time.

| code                 | severity | when |
|----------------------|----------|----------------------------------------------------------------|
| missing-file         | error    | a listed file or folder is not there |
| unreadable-file      | error    | no image of a known format, damaged, no permission, no numbers |
| outside-folder       | error    | an entry is absolute or has `..`; it is not opened |
| wrong-dimensions     | error    | an image is not 3-D or 4-D, a mask not 3-D, an X-ray not one |
| wrong-channels       | error    | another number than dataset.json's; other names than the job's |
| bad-affine           | error    | the affine is singular or not finite; DICOM axes askew |
| shape-mismatch       | error    | image and mask have different shapes |
| affine-mismatch      | error    | image and mask lie over 0.1 voxel apart; other DICOM frame |
| not-finite           | error    | NaN or infinity in image or mask |
| non-integer-label    | error    | a mask holds a fraction |
| unknown-label        | error    | a mask, an outcome or a label is a value that nothing names |
| duplicate-patient    | error    | two entries or rows of one patient, or of one image file |
| duplicate-mask       | error    | two entries share a mask file |
| duplicate-image      | error    | two patients have the same voxels or pixels |
| channel-mismatch     | error    | channels of several files differ in grid or DICOM frame |
| empty-series         | error    | DICOM: no file in the folder |
| several-series       | error    | DICOM: files of several series in one folder |
| missing-geometry     | error    | DICOM: a slice has no position, orientation or spacing |
| mixed-orientation    | error    | DICOM: slices of different orientation (a localizer) |
| mixed-slices         | error    | DICOM: slices differ in size, spacing or frame of reference |
| missing-slices       | error    | DICOM: a gap between the slices |
| duplicate-slice      | error    | DICOM: slices at one place (echoes, time points, copies) |
| uneven-slices        | error    | DICOM: slices lie over 0.1 voxel beside an even stack |
| tilted-series        | error    | DICOM: slices shifted against each other (tilted gantry) |
| missing-rescale      | error    | DICOM: CT, PET or a part of the slices without slope |
| no-decoder           | error    | DICOM: compressed in a way that nothing here can decode |
| unknown-segment      | error    | DICOM: a segment is called like no label of dataset.json |
| nothing-to-train     | error    | all patients are for validation |
| missing-column       | error    | table, X-rays: a column that is needed is not there |
| not-a-number         | error    | table: a value in a column of numbers is none |
| out-of-range         | error    | table: a number outside the range of the job |
| unknown-value        | error    | table: a category that the job does not know |
| bad-split            | error    | table, X-rays: split is neither training nor validation |
| one-class            | error    | table: all patients are of one class |
| empty-validation     | error    | table, X-rays: no patient is left for validation |
| colour-image         | error    | X-rays: it is in colour |
| duplicate-file       | error    | X-rays: a file is listed twice |
| split-patient        | error    | X-rays: a patient is on both sides of the split |
| missing-value        | warning  | table, X-rays: some lack a value and are left out |
| one-class-training   | warning  | table, X-rays: all for training are of one class |
| empty-mask           | warning  | a mask labels nothing |
| constant-image       | warning  | a channel or an X-ray has one value |
| duplicate-channel    | warning  | a channel is a copy of another (a missing sequence filled in) |
| label-name           | warning  | a label has no name, or the job calls the value by another |
| absent-label         | warning  | a structure (a label, without a job) is in none of the masks |
| too-few-patients     | warning  | fewer than 5 patients |
| spacing-outlier      | warning  | voxel spacing far from the hospital's median, and by 1.5 times |
| size-outlier         | warning  | number of voxels along an axis, and by 2 times |
| intensity-outlier    | warning  | standard deviation of a channel, and by 4 times |
| overlapping-segments | warning  | DICOM: segments share voxels, the last one is taken |
| identifying-header   | warning  | DICOM: headers hold a name, a date of birth or the like |
| several-scans        | warning  | patients have several scans; they stay together |
| one-class-xrays      | warning  | X-rays: all are of one class |
| other-view           | warning  | some X-rays are of other views than the job's and are left out |
| unknown-view         | warning  | X-rays: nobody says the view of some; they are taken |
| repeated-image       | warning  | X-rays: two of one patient have the same pixels |
| sixteen-bit          | warning  | X-rays: 16 bits a pixel, of which the used ones count |
| tiny-image           | warning  | X-rays: a side of fewer than 64 pixels |
| inverted-image       | warning  | X-rays: dark where the hospital's others are bright |
| burnt-in-text        | warning  | X-rays: letters near the border, or the header says so |

What "far" means for the outliers is in `consortium.core.outliers`; they need 8 cases.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from consortium.core.findings import Finding, error, warning
from consortium.core.outliers import ImageFacts, find_outliers
from consortium.imaging.volumes import name_inside
from consortium.tasks.segmentation.case_checks import check_case
from consortium.tasks.segmentation.datalist import Case, Datalist, read_datalist
from consortium.tasks.segmentation.settings import Data, SegmentationSettings

__all__ = ["FEWEST_PATIENTS", "Finding", "check_folder"]

FEWEST_PATIENTS = 5
_LIST = "dataset.json"


def check_folder(
    folder: Path,
    settings: SegmentationSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Checks one hospital's folder.

    Args:
        folder: holds `dataset.json` and the files it lists.
        settings: of the job that the hospital is to train; without them the folder is checked
            against its own `dataset.json` alone.
        progress: called after each case with the number of cases done and of all.

    Returns:
        Errors first, else in the order of the cases.

    Raises:
        UsageError: there is no such folder, or no usable `dataset.json` in it; see
            `read_datalist`.
    """
    datalist = read_datalist(folder.absolute())
    data = settings.data if settings else None
    findings = _check_names(datalist, data) + _check_listing(datalist)
    images: list[ImageFacts] = []
    labels: set[int] = set()
    for done, case in enumerate(datalist.cases, start=1):
        result = check_case(case, datalist, data)
        findings += result.findings
        labels |= result.labels
        if result.image:
            images.append(result.image)
        if progress:
            progress(done, len(datalist.cases))
    findings += _check_copies(images)
    findings += _check_presence(datalist, data, labels)
    findings += find_outliers(images, datalist.channels)
    return sorted(findings, key=lambda finding: finding.severity)


def _check_names(datalist: Datalist, data: Data | None) -> list[Finding]:
    """Compares what `dataset.json` calls channels and labels with what the job calls them."""
    found = [
        warning("label-name", _LIST, f"value {value} has no name")
        for value, name in datalist.labels.items()
        if not name.strip()
    ]
    if data is None:
        return found
    if [c.casefold() for c in datalist.channels] != [c.casefold() for c in data.channels]:
        detail = (
            f"the job wants {', '.join(data.channels)}; here are {', '.join(datalist.channels)}"
        )
        found.append(error("wrong-channels", _LIST, detail))
    for structure, values in data.labels.items():
        name = datalist.labels.get(values[0], "").strip()
        # A structure of several values is a region, which dataset.json has no name for.
        if len(values) == 1 and name and name.casefold() != structure.casefold():
            detail = f"value {values[0]} is {name} here and {structure} in the job"
            found.append(warning("label-name", _LIST, detail))
    return found


def _check_listing(datalist: Datalist) -> list[Finding]:
    """Finds entries that are listed twice, and counts the patients."""
    found = []
    patients: dict[str, Case] = {}
    images: dict[Path, str] = {}
    masks: dict[Path, str] = {}
    scans: Counter[str] = Counter()
    for case in datalist.cases:
        earlier = patients.get(case.patient)
        shared = next((path for path in case.images if path in images), None)
        if earlier and earlier.named and case.named and not shared:
            scans[case.patient] += 1
        elif earlier:
            first = earlier.images[0]
            also = "" if first == case.images[0] else f", also with {_name(datalist, first)}"
            detail = f"patient {case.patient} is listed more than once{also}"
            found.append(error("duplicate-patient", _name(datalist, case.images[0]), detail))
        elif shared:
            detail = f"patients {images[shared]} and {case.patient} share this image"
            found.append(error("duplicate-patient", _name(datalist, shared), detail))
        elif case.label in masks:
            detail = f"patients {masks[case.label]} and {case.patient} share this mask"
            found.append(error("duplicate-mask", _name(datalist, case.label), detail))
        patients.setdefault(case.patient, case)
        for path in case.images:
            images.setdefault(path, case.patient)
        masks.setdefault(case.label, case.patient)
    if scans:
        detail = (
            f"{len(scans)} patients have several scans ({sum(scans.values())} more); they stay"
            " together in training or in validation"
        )
        found.append(warning("several-scans", _LIST, detail))
    if patients and datalist.validation >= patients.keys():
        found.append(error("nothing-to-train", _LIST, "all patients are listed for validation"))
    if len(patients) < FEWEST_PATIENTS:
        detail = (
            f"{len(patients)} listed; fewer than {FEWEST_PATIENTS} can hardly train or validate"
        )
        found.append(warning("too-few-patients", _LIST, detail))
    return found


def _name(datalist: Datalist, path: Path) -> str:
    return name_inside(datalist.folder, path) or _LIST


def _check_copies(images: Sequence[ImageFacts]) -> list[Finding]:
    found = []
    seen: dict[bytes, ImageFacts] = {}
    for image in images:
        first = seen.setdefault(image.digest, image)
        if first.patient != image.patient and first.file != image.file:
            detail = f"the same voxels as {first.file}, of another patient"
            found.append(error("duplicate-image", image.file, detail))
    return found


def _check_presence(datalist: Datalist, data: Data | None, labels: set[int]) -> list[Finding]:
    expected = (
        {name: set(values) for name, values in data.labels.items()}
        if data
        else {f"{value} ({name})": {value} for value, name in datalist.labels.items() if value}
    )
    return [
        warning("absent-label", "", f"no mask holds {name}")
        for name, values in expected.items()
        if not values & labels
    ]
