"""Generates folders of chest X-rays like those of several hospitals; none of the patients exists.

`consortium.synthetic.xrays` draws the X-rays. The hospitals differ in size, in their mix of labels,
in age, and with a `shortcut` above 0 in how their X-rays are made. One of them, harbour, keeps its
X-rays as DICOM, inverted (MONOCHROME1) and with a window, and gives the view in the header alone;
the others keep PNG. Some patients have a second X-ray of the same chest, some a lateral one. A
patient is a function of (seed, hospital, number), the hospital's description and the image side.
The shortcut changes how X-rays are made and nothing else of a patient.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid
from scipy.ndimage import gaussian_filter

from consortium.core.errors import UsageError
from consortium.core.files import whole_folder
from consortium.synthetic.xrays import LABELS as DISEASES
from consortium.synthetic.xrays import (
    MIXED,
    OWN,
    Label,
    XrayScanner,
    blend_scanner,
    draw_radiograph,
    patient_rng,
)
from consortium.tasks.classification.dataset import IMAGES, LABELS
from consortium.tasks.synthetic import Request, Synthetic
from consortium.tasks.tables import SIDES, write_table

COLUMNS = ["file", "patient", "label", "view", "split", "age", "sex", "scanner"]

LATERAL = "LL"
"""The view of an X-ray that no job takes."""

_GOLDEN = (np.sqrt(5) - 1) / 2
_BLACK, _STEP, _BITS = 500, 10, 12  # DICOM: lowest stored value, values per grey, bits stored


@dataclass(frozen=True, slots=True, kw_only=True)
class XrayClinic:
    """A hospital and its patients.

    Attributes:
        name: name of its folder, and prefix of its patients' ids.
        patients: number of training patients.
        held_out: number of validation patients.
        mix: shares of the labels, in the order of `xrays.LABELS`.
        scanner: its own scanner, used in full at a shortcut of 1.
        age: mean age, years.
        second_share: share of the patients with a second X-ray.
        lateral_share: share of the patients who also have a lateral X-ray.
        file_format: file format of its X-rays.
    """

    name: str
    patients: int
    held_out: int
    mix: tuple[float, float, float]
    scanner: XrayScanner
    age: float = 58
    second_share: float = 0.1
    lateral_share: float = 0.05
    file_format: Literal["png", "dicom"] = "png"


CLINICS = (
    XrayClinic(
        name="north",
        patients=150,
        held_out=60,
        mix=MIXED[0],
        scanner=OWN[0],
        age=61,
        second_share=0.2,
    ),
    XrayClinic(
        name="harbour",
        patients=100,
        held_out=50,
        mix=MIXED[1],
        scanner=OWN[1],
        age=54,
        file_format="dicom",
    ),
    XrayClinic(name="valley", patients=60, held_out=40, mix=MIXED[2], scanner=OWN[2], age=49),
    XrayClinic(name="hillside", patients=40, held_out=40, mix=MIXED[3], scanner=OWN[3], age=66),
)


@dataclass(frozen=True, slots=True)
class XrayPatient:
    """A patient and the patient's X-rays.

    Attributes:
        name: the patient's id.
        label: the patient's disease, or normal.
        age: years.
        sex: F or M.
        radiographs: view and pixels of each X-ray, uint8 (side, side), bright where dense.
    """

    name: str
    label: Label
    age: int
    sex: str
    radiographs: tuple[tuple[str, npt.NDArray[np.uint8]], ...]


def generate_radiographs(
    out: Path,
    *,
    seed: int = 0,
    shortcut: float = 0.0,
    side: int = 128,
    clinics: Sequence[XrayClinic] = CLINICS,
) -> None:
    """Writes one folder for each hospital, each whole or not at all.

    Args:
        out: a new or empty folder.
        seed: seed of all randomness.
        shortcut: from 0, all hospitals make X-rays alike, to 1, each unlike the others.
        side: side of an X-ray, pixels.
        clinics: the hospitals.

    Raises:
        UsageError: `not-empty` or `bad-shortcut`.
        EnvironmentProblem: `disk-full` or `cannot-write`; finished hospitals stay.
    """
    if not 0 <= shortcut <= 1:
        raise UsageError("bad-shortcut", f"a shortcut of {shortcut}", "--shortcut", "give 0 to 1")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("not-empty", "the folder is not empty", str(out), "choose another one")
    for clinic in clinics:
        with whole_folder(out / clinic.name) as partial_folder:
            (partial_folder / IMAGES).mkdir()
            rows = []
            for number in range(clinic.patients + clinic.held_out):
                patient = draw_patient(clinic, number, seed=seed, shortcut=shortcut, side=side)
                rows += _write_patient(partial_folder / IMAGES, clinic, number, patient)
            write_table(partial_folder / LABELS, COLUMNS, rows)


def draw_patient(
    clinic: XrayClinic, number: int, *, seed: int, shortcut: float, side: int
) -> XrayPatient:
    """Draws a hospital's patient.

    Args:
        clinic: the patient's hospital.
        number: the patient's number, from 0.
        seed: see `generate_radiographs`.
        shortcut: see `generate_radiographs`.
        side: see `generate_radiographs`.
    """
    rng = patient_rng(seed, clinic.name, number)
    label = _label(clinic, number, seed)
    age = int(np.clip(rng.normal(clinic.age, 14), 18, 95))
    sex = "F" if rng.random() < 0.45 else "M"
    views = ["PA" if rng.random() < 0.7 else "AP" for _ in range(2)]
    if rng.random() >= clinic.second_share:
        del views[1]
    if rng.random() < clinic.lateral_share:
        views.append(LATERAL)
    scanner = blend_scanner(clinic.scanner, shortcut)
    radiographs = []
    for radiograph, view in enumerate(views):
        chest, exposure = (
            patient_rng(seed, clinic.name, number, key) for key in ("chest", radiograph)
        )
        pixels = draw_radiograph(chest, label, scanner, side, exposure=exposure)
        radiographs.append((view, _make_lateral(pixels) if view == LATERAL else pixels))
    return XrayPatient(f"{clinic.name}-{number + 1:03d}", label, age, sex, tuple(radiographs))


def _label(clinic: XrayClinic, number: int, seed: int) -> Label:
    """The label of a patient, spread evenly so that few consecutive patients have the mix too.

    The fractional parts of multiples of the golden ratio lie evenly (Weyl's equidistribution).
    """
    start = patient_rng(seed, clinic.name, "labels").random()
    index = np.searchsorted(np.cumsum(clinic.mix)[:-1], (start + number * _GOLDEN) % 1, "right")
    return DISEASES[int(index)]


def _make_lateral(radiograph: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Imitates a lateral X-ray: one lung is behind the other, so nothing is sharp across."""
    side = radiograph.shape[1]
    blurred = gaussian_filter(radiograph[:, ::-1].astype(float), (0.01 * side, 0.06 * side))
    stored: npt.NDArray[np.uint8] = np.rint(blurred).astype(np.uint8)
    return stored


def _write_patient(
    folder: Path, clinic: XrayClinic, number: int, patient: XrayPatient
) -> list[list[str]]:
    """Writes the X-rays and returns their rows."""
    rows = []
    for radiograph, (view, pixels) in enumerate(patient.radiographs, start=1):
        name = f"{patient.name}-{radiograph}"
        if clinic.file_format == "dicom":
            file, listed_view = f"{name}.dcm", ""
            _write_dicom(folder / file, pixels, patient, view)
        else:
            file, listed_view = f"{name}.png", view
            Image.fromarray(pixels).save(folder / file)
        split = SIDES[number >= clinic.patients]
        further = [str(patient.age), patient.sex, f"{clinic.name}-1"]
        rows.append([file, patient.name, patient.label, listed_view, split, *further])
    return rows


def _write_dicom(
    path: Path, radiograph: npt.NDArray[np.uint8], patient: XrayPatient, view: str
) -> None:
    """Writes a computed radiograph (DICOM PS3.3, A.2) in 12 bits, with a display window."""
    dataset: Any = pydicom.Dataset()
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = generate_uid(
        entropy_srcs=["xray", path.name, radiograph.tobytes().hex()]
    )
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=["study", patient.name])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=["series", path.name])
    dataset.PatientID = dataset.PatientName = patient.name
    dataset.PatientSex, dataset.PatientAge = patient.sex, f"{patient.age:03d}Y"
    dataset.PatientIdentityRemoved, dataset.BurnedInAnnotation = "YES", "NO"
    dataset.DeidentificationMethod = "generated, no such patient"
    for empty in ("PatientBirthDate", "StudyDate", "StudyTime", "StudyID", "AccessionNumber"):
        setattr(dataset, empty, "")
    dataset.ReferringPhysicianName = dataset.Manufacturer = dataset.PatientOrientation = ""
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "CR", "CHEST", view
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME1"
    dataset.Rows, dataset.Columns = radiograph.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, _BITS, _BITS - 1
    dataset.PixelRepresentation = 0
    # From the least to the largest value of the window (PS3.3, C.11.2.1.2.1).
    dataset.WindowWidth = 255 * _STEP + 1
    dataset.WindowCenter = _BLACK + (255 * _STEP + 1) / 2
    stored = _BLACK + _STEP * (255 - radiograph.astype(np.uint16))
    dataset.PixelData = stored.astype("<u2").tobytes()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)


def _generate(out: Path, request: Request) -> Sequence[XrayClinic]:
    generate_radiographs(out, seed=request.seed, shortcut=request.shortcut)
    return CLINICS


SYNTHETIC = Synthetic(
    patients="X-rays",
    likes=("chest",),
    generate=_generate,
    # A tenth of the job's rounds, for one more model is trained without each hospital. These
    # settings learn fastest where every hospital has every class.
    rounds=8,
    assignments=(
        *("network.normalisation=batch", "training.loss=adjusted", "training.local_steps=20"),
        *("training.optimiser=adamw", "training.learning_rate=0.001"),
        *("training.weight_decay=0.01", "server.adaptive=null", "server.learning_rate=1"),
        "server.momentum=0",
    ),
)
