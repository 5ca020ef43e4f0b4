"""Reads the cases of one hospital and splits them into training and validation by patient.

The list is a `dataset.json` in the layout of the Medical Segmentation Decathlon (Antonelli et al.,
Nat Commun 13:4128, 2022). All cases of a patient are on one side of the split, which depends on
the patient's id alone: adding patients moves none of the others.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from consortium.core.errors import UsageError
from consortium.core.json_files import read_json_object
from consortium.tasks.split import ChooseValidation, validation_patients


@dataclass(frozen=True, slots=True)
class Case:
    """One image with its mask.

    Attributes:
        patient: id of the patient; never leaves the hospital.
        image: absolute path of a NIfTI file or of a DICOM series' folder; several paths are one a
            channel.
        label: absolute path of the mask, NIfTI or a DICOM segmentation (.dcm).
        named: whether the list names the patient; else the image's file name is the id.
        values: the mask's value for each name that a segment of a DICOM segmentation may have.
    """

    patient: str
    image: Path | tuple[Path, ...]
    label: Path
    named: bool = False
    values: Mapping[str, int] = field(default_factory=dict, compare=False)

    @property
    def images(self) -> tuple[Path, ...]:
        """The paths of the image: one, or one for each channel."""
        return (self.image,) if isinstance(self.image, Path) else self.image


@dataclass(frozen=True, slots=True)
class Datalist:
    """The content of `dataset.json`.

    Attributes:
        folder: the hospital's folder.
        channels: names of the channels in their order, as in the file.
        labels: names of the mask's values, 0 included, as in the file.
        cases: the labelled cases, in the file's order.
        validation: patients in the file's optional list `validation`; empty if there is none.
    """

    folder: Path
    channels: tuple[str, ...]
    labels: dict[int, str]
    cases: tuple[Case, ...]
    validation: frozenset[str]


@dataclass(frozen=True, slots=True)
class Split:
    """A hospital's training and validation cases, each sorted by patient."""

    training: tuple[Case, ...]
    validation: tuple[Case, ...]


def patient_of(entry: dict[str, Any]) -> str:
    """The patient's id in an entry: its `patient`, else the image's file name without suffixes.

    Raises:
        ValueError: the entry has an image of several files and no patient.
    """
    if "patient" in entry:
        return str(entry["patient"])
    if isinstance(entry["image"], list):
        raise ValueError("an image of several files needs a patient")
    name = Path(str(entry["image"])).name
    for suffix in (".nii.gz", ".nii", ".dcm"):
        name = name.removesuffix(suffix)
    return name


def read_datalist(folder: Path) -> Datalist:
    """Reads a hospital's `dataset.json` without opening image files.

    Raises:
        UsageError: `missing-folder`, `missing-file`, `bad-json`, `bad-datalist` or
            `empty-hospital`.
    """
    if not folder.is_dir():
        raise UsageError("missing-folder", "no such folder", str(folder), "check the path")
    path = folder / "dataset.json"
    raw = read_json_object(path)
    try:
        channels = tuple(
            str(name) for _, name in sorted(raw["modality"].items(), key=lambda item: int(item[0]))
        )
        labels = {int(value): str(name) for value, name in raw["labels"].items()}
        values = {name.casefold(): value for value, name in labels.items() if value}
        entries = [(entry, False) for entry in raw["training"]]
        entries += [(entry, True) for entry in raw.get("validation", [])]
        cases = tuple(
            Case(
                patient_of(entry),
                _paths(folder, entry["image"]),
                folder / entry["label"],
                "patient" in entry,
                values,
            )
            for entry, _ in entries
        )
        validation = frozenset(patient_of(entry) for entry, held_out in entries if held_out)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            "bad-datalist",
            f"modality, labels or training is malformed ({type(error).__name__} {error})",
            str(path),
            "follow the layout in docs/hospital.md",
        ) from None
    if not cases:
        raise UsageError("empty-hospital", "it lists no cases", str(path), "list them")
    return Datalist(folder, channels, labels, cases, validation)


def _paths(folder: Path, image: Any) -> Path | tuple[Path, ...]:
    if not isinstance(image, list):
        path: Path = folder / image
        return path
    if not image:
        raise ValueError("an image without a file")
    return tuple(folder / name for name in image)


def split_cases(
    datalist: Datalist,
    validation_fraction: float,
    choose: ChooseValidation = validation_patients,
) -> Split:
    """Splits the cases by patient.

    The validation patients are those that the file names, else those whose hash is below the
    fraction. A hospital with two or more patients has at least one on each side: if the hash puts
    all on one side, the patient with the lowest hash validates or the one with the highest trains.

    Args:
        datalist: the hospital's cases.
        validation_fraction: share of patients, in [0, 1]; 0 selects nobody for validation.
        choose: selects the validation patients.
    """
    chosen = choose(
        {case.patient for case in datalist.cases}, datalist.validation, validation_fraction
    )
    by_patient = sorted(datalist.cases, key=lambda case: (case.patient, str(case.image)))
    return Split(
        tuple(case for case in by_patient if case.patient not in chosen),
        tuple(case for case in by_patient if case.patient in chosen),
    )
