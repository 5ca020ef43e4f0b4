"""The cases of one hospital and their split into training and validation by patient.

Read from a `dataset.json` in the layout of the Medical Segmentation Decathlon (Antonelli et al.,
Nat Commun 13:4128, 2022). A patient is never on both sides of the split, and which side is a
function of the patient's id alone: adding patients moves none of the others.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from consortium.core.errors import UsageError
from consortium.core.json_files import read_json_object
from consortium.tasks.split import validation_patients


@dataclass(frozen=True, slots=True)
class Case:
    """One image with its mask.

    Attributes:
        patient: id of the patient; never leaves the hospital.
        image: absolute path of a NIfTI file or of a DICOM series' folder; several are one a
            channel.
        label: absolute path of the mask, NIfTI or a DICOM segmentation (.dcm).
        named: whether the file names the patient, else the image's file name stands for it.
        values: the mask's value of each name that a segment of a DICOM segmentation may have.
    """

    patient: str
    image: Path | tuple[Path, ...]
    label: Path
    named: bool = False
    values: Mapping[str, int] = field(default_factory=dict, compare=False)

    @property
    def images(self) -> tuple[Path, ...]:
        """The paths of the image, one or one a channel."""
        return (self.image,) if isinstance(self.image, Path) else self.image


@dataclass(frozen=True, slots=True)
class Datalist:
    """What `dataset.json` says.

    Attributes:
        folder: the hospital's folder.
        channels: names of the channels by their order, as the file gives them.
        labels: names of the mask's values, 0 included, as the file gives them.
        cases: the labelled cases, in the file's order.
        validation: patients that the file itself puts aside for validation (an optional list
            `validation` beside `training`); empty if it names none.
    """

    folder: Path
    channels: tuple[str, ...]
    labels: dict[int, str]
    cases: tuple[Case, ...]
    validation: frozenset[str]


@dataclass(frozen=True, slots=True)
class Split:
    """A hospital's cases by what they are used for, each sorted by patient."""

    training: tuple[Case, ...]
    validation: tuple[Case, ...]


def patient_of(entry: dict[str, Any]) -> str:
    """The patient's id of an entry: its `patient`, else the image's file name without suffixes.

    Raises:
        ValueError: an image of several files names no patient.
    """
    if "patient" in entry:
        return str(entry["patient"])
    if isinstance(entry["image"], list):
        raise ValueError("an image of several files without its patient")
    name = Path(str(entry["image"])).name
    for suffix in (".nii.gz", ".nii", ".dcm"):
        name = name.removesuffix(suffix)
    return name


def read_datalist(folder: Path) -> Datalist:
    """Reads a hospital's `dataset.json`. Image files are not opened.

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
        validation = frozenset(patient_of(entry) for entry, aside in entries if aside)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            "bad-datalist",
            f"modality, labels or training is malformed ({type(error).__name__} {error})",
            str(path),
            "follow the layout in docs/hospital.md",
        ) from None
    if not cases:
        raise UsageError("empty-hospital", "no cases are listed", str(path), "list them")
    return Datalist(folder, channels, labels, cases, validation)


def _paths(folder: Path, image: Any) -> Path | tuple[Path, ...]:
    if not isinstance(image, list):
        path: Path = folder / image
        return path
    if not image:
        raise ValueError("an image of no file")
    return tuple(folder / name for name in image)


def split_cases(datalist: Datalist, validation_fraction: float) -> Split:
    """Splits by patient: those the file names, else those whose hash is below the fraction.

    A hospital with two patients or more always has one on each side: where the hash puts all on
    one side, the patient with the lowest hash validates or the one with the highest trains.

    Args:
        datalist: the hospital's cases.
        validation_fraction: in [0, 1]; 0 validates nobody.
    """
    chosen = validation_patients(
        {case.patient for case in datalist.cases}, datalist.validation, validation_fraction
    )
    by_patient = sorted(datalist.cases, key=lambda case: (case.patient, str(case.image)))
    return Split(
        tuple(case for case in by_patient if case.patient not in chosen),
        tuple(case for case in by_patient if case.patient in chosen),
    )
