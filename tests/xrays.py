"""Folders of generated X-rays, to try out and to damage."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

from consortium.synthetic.xrays import COMMON, LABELS, draw_radiograph

SIDE = 96
HEADER = ("file", "patient", "label", "view")


def radiograph(number: int, side: int = SIDE) -> np.ndarray:
    """uint8 (side, side), another for each number."""
    label = LABELS[number % len(LABELS)]
    return draw_radiograph(np.random.default_rng(number), label, COMMON, side)


def rows(count: int = 12) -> list[list[str]]:
    """One X-ray a patient, labels in turn."""
    return [
        [f"{number:02}.png", f"P{number:02}", LABELS[number % len(LABELS)], "PA"]
        for number in range(count)
    ]


def write_radiographs(
    folder: Path,
    listed: Sequence[Sequence[str]] | None = None,
    header: Sequence[str] = HEADER,
    pictures: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """A hospital's folder: `listed` in its `labels.csv`, and twelve sound X-rays or `pictures`."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    if pictures is None:
        pictures = {f"{number:02}.png": radiograph(number) for number in range(12)}
    for name, values in pictures.items():
        Image.fromarray(values).save(folder / "images" / name)
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *(rows() if listed is None else listed)])
    return folder


def write_dicom(
    path: Path,
    stored: np.ndarray,
    *,
    change: Callable[[pydicom.Dataset], object] = lambda dataset: None,
    **values: object,
) -> Path:
    """Writes a digital X-ray of 12 bits.

    Args:
        path: of the file.
        stored: uint16 (rows, columns).
        change: alters the header before it is written.
        values: further attributes.
    """
    dataset = pydicom.Dataset()
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    dataset.Modality, dataset.PatientID, dataset.PatientName = "DX", "P-17", "P-17"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.PixelData = np.ascontiguousarray(stored, "<u2").tobytes()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    change(dataset)
    dataset.save_as(path, enforce_file_format=True)
    return path
