"""Checks one hospital's folder before it trains.

* Bad data become findings, not exceptions. Only a folder without a readable `dataset.json` is a
  usage error, because there is nothing to check.
* Nothing is written, and no file outside the folder is opened.
* Only one case is in memory at a time.

The codes are in `consortium.core.finding_codes`. `consortium.core.outliers` has the limits of the
outliers, which need 8 cases.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from consortium.core.findings import Finding, error, warning
from consortium.core.outliers import ImageFacts, find_outliers
from consortium.core.plurals import plural
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
        folder: folder with `dataset.json` and the files it lists.
        settings: settings of the job; without them, the folder is checked against its own
            `dataset.json` alone.
        progress: called after each case with the number of cases done and in total.

    Returns:
        Findings: errors first, then in the order of the cases.

    Raises:
        UsageError: the folder or a usable `dataset.json` is missing; see `read_datalist`.
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
    """Compares the names of channels and labels in `dataset.json` with the job's."""
    findings = [
        warning("label-name", _LIST, f"value {value} has no name")
        for value, name in datalist.labels.items()
        if not name.strip()
    ]
    if data is None:
        return findings
    if [c.casefold() for c in datalist.channels] != [c.casefold() for c in data.channels]:
        detail = (
            f"the job needs {', '.join(data.channels)}; the data have"
            f" {', '.join(datalist.channels)}"
        )
        findings.append(error("wrong-channels", _LIST, detail))
    for structure, values in data.labels.items():
        name = datalist.labels.get(values[0], "").strip()
        # A structure of several values is a region, and dataset.json does not name regions.
        if len(values) == 1 and name and name.casefold() != structure.casefold():
            detail = f"value {values[0]} is {name} here and {structure} in the job"
            findings.append(warning("label-name", _LIST, detail))
    return findings


def _check_listing(datalist: Datalist) -> list[Finding]:
    """Finds duplicate entries and counts the patients."""
    findings = []
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
            findings.append(error("duplicate-patient", _name(datalist, case.images[0]), detail))
        elif shared:
            detail = f"patients {images[shared]} and {case.patient} share this image"
            findings.append(error("duplicate-patient", _name(datalist, shared), detail))
        elif case.label in masks:
            detail = f"patients {masks[case.label]} and {case.patient} share this mask"
            findings.append(error("duplicate-mask", _name(datalist, case.label), detail))
        patients.setdefault(case.patient, case)
        for path in case.images:
            images.setdefault(path, case.patient)
        masks.setdefault(case.label, case.patient)
    if scans:
        detail = (
            f"{plural(len(scans), 'patient has', 'patients have')} several scans"
            f" ({sum(scans.values())} more); a patient's scans stay together in training"
            " or in validation"
        )
        findings.append(warning("several-scans", _LIST, detail))
    if patients and datalist.validation >= patients.keys():
        findings.append(error("nothing-to-train", _LIST, "all patients are listed for validation"))
    if len(patients) < FEWEST_PATIENTS:
        detail = (
            f"{plural(len(patients), 'patient')}; fewer than {FEWEST_PATIENTS} are hardly enough"
            " to train or validate"
        )
        findings.append(warning("too-few-patients", _LIST, detail))
    return findings


def _name(datalist: Datalist, path: Path) -> str:
    return name_inside(datalist.folder, path) or _LIST


def _check_copies(images: Sequence[ImageFacts]) -> list[Finding]:
    findings = []
    seen: dict[bytes, ImageFacts] = {}
    for image in images:
        first = seen.setdefault(image.digest, image)
        if first.patient != image.patient and first.file != image.file:
            detail = f"the same voxels as {first.file}, of another patient"
            findings.append(error("duplicate-image", image.file, detail))
    return findings


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
