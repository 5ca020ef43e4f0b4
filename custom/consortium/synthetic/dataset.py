"""Writes the hospitals' folders in the layout of the Medical Segmentation Decathlon.

A hospital's folder is written atomically. Its bytes depend on the seed, the hospital's description
and the form of the scans. They depend neither on other hospitals or later patients, nor on the time
or the path.
"""

import csv
import gzip
import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.orientations import axcodes2ornt, ornt_transform

from consortium.core.errors import UsageError
from consortium.core.files import whole_folder, write_json, write_text
from consortium.synthetic.anatomy import Head
from consortium.synthetic.hospitals import HOSPITALS, Hospital
from consortium.synthetic.protocols import PROTOCOLS, Protocol
from consortium.synthetic.scanner import SIGNALS, Scanner
from consortium.synthetic.tumour import Tumour

_STACK = (96, 18)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """A patient and the scan of their head.

    Attributes:
        name: id, unique among all hospitals.
        sex: `female` or `male`.
        age: age in years.
        scanner: the scanner used.
        image: voxels of shape (X, Y, Z, channels), axes pointing right, front and up.
        mask: mask of shape (X, Y, Z), with the values of the protocol.
        affine: matrix of shape (4, 4), from voxels to mm to the right, front and up.
    """

    name: str
    sex: str
    age: int
    scanner: Scanner
    image: npt.NDArray[np.int16]
    mask: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float64]


def generate(
    out: Path,
    hospitals: Sequence[Hospital] = HOSPITALS,
    *,
    seed: int,
    spatial_dims: Literal[2, 3] = 2,
    in_plane: int | None = None,
    slices: int | None = None,
    like: str = "lgg",
    processes: int = 1,
) -> None:
    """Writes one folder for each hospital into `out`.

    The same arguments give the same bytes on one machine with the same libraries; elsewhere, a
    voxel may differ by one unit. A patient's head and tumour are the same in 2-D and in 3-D, and
    under every protocol.

    Args:
        out: a folder that is missing or empty.
        hospitals: the hospitals to generate.
        seed: seed of all randomness, not negative.
        spatial_dims: 2 for stacks of thick slices, for training by slice; 3 for small volumes with
            isotropic voxels.
        in_plane: voxels along each side of a slice; by default 96 in 2-D, the protocol's in 3-D.
        slices: number of slices; by default 18 in 2-D, the protocol's in 3-D.
        like: name of the protocol, in `PROTOCOLS`.
        processes: how many draw patients at a time; the bytes do not depend on it.

    Raises:
        UsageError: `folder-in-use`, `bad-seed`, `same-name` or `unknown-protocol`.
        EnvironmentProblem: `disk-full` or `cannot-write`; hospitals already written stay.
    """
    if seed < 0:
        raise UsageError("bad-seed", f"{seed} is negative", "--seed", "give 0 or more")
    if like not in PROTOCOLS:
        known = " or ".join(PROTOCOLS)
        raise UsageError("unknown-protocol", "there is no such protocol", like, f"choose {known}")
    repeated = [n for n, count in Counter(h.name for h in hospitals).items() if count > 1]
    if repeated:
        raise UsageError("same-name", "two hospitals have the same name", repeated[0], "rename one")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("folder-in-use", "it is not an empty folder", str(out), "choose a new one")
    protocol = PROTOCOLS[like]
    default_in_plane, default_slices = _STACK if spatial_dims == 2 else protocol.volume
    shape = (in_plane or default_in_plane, slices or default_slices)
    draw = partial(_draw_scan, seed, spatial_dims, shape, like)
    with ExitStack() as stack:
        apply: _Apply = map
        if processes > 1:
            apply = stack.enter_context(ProcessPoolExecutor(processes)).map
        for hospital in hospitals:
            with whole_folder(out / hospital.name) as folder:
                _write_hospital(folder, hospital, seed, spatial_dims, protocol, draw, apply)


def make_patient(
    hospital: Hospital,
    index: int,
    *,
    seed: int,
    spatial_dims: Literal[2, 3],
    shape: tuple[int, int],
    protocol: Protocol = PROTOCOLS["lgg"],
) -> Patient:
    """Draws a patient of a hospital and the scan.

    Args:
        hospital: the patient's hospital.
        index: number of the patient, from 1.
        seed: see `generate`.
        spatial_dims: see `generate`.
        shape: voxels along each side of a slice, and number of slices.
        protocol: the sequences and labels.
    """
    digest = hashlib.sha256(hospital.name.encode()).digest()
    words = [int.from_bytes(digest[i : i + 4], "big") for i in range(0, 16, 4)]
    rng = np.random.default_rng(np.random.SeedSequence([seed, *words, index]))
    male = bool(rng.random() >= hospital.women)
    age = int(rng.integers(hospital.age[0], hospital.age[1], endpoint=True))
    scanner = hospital.scanners[rng.integers(len(hospital.scanners))]
    head = Head.draw(rng, age=age, male=male)
    tumour = Tumour.draw(rng, hospital.growth)

    grid = scanner.grid(*shape, isotropic=spatial_dims == 3)
    anatomy = head.on(grid, tumour.push)
    layers, parts = tumour.on(grid, anatomy)
    signals = {**SIGNALS, **tumour.signals}
    sequences = protocol.channels.values()
    image = scanner.acquire(rng, grid, (*anatomy.layers, *layers), signals, sequences)
    return Patient(
        name=f"{hospital.name}-{index:04d}",
        sex="male" if male else "female",
        age=age,
        scanner=scanner,
        image=image,
        mask=protocol.mask(parts),
        affine=grid.affine,
    )


@dataclass(frozen=True, slots=True)
class _Scan:
    """A patient's row of the table, and the packed image and mask."""

    row: tuple[str, str, int, str]
    image: bytes
    mask: bytes


_Draw = Callable[[Hospital, int], _Scan]
_Apply = Callable[..., Iterable[_Scan]]


def _draw_scan(
    seed: int,
    spatial_dims: Literal[2, 3],
    shape: tuple[int, int],
    like: str,
    hospital: Hospital,
    index: int,
) -> _Scan:
    """Draws a patient and packs the scan; another process may do it."""
    patient = make_patient(
        hospital,
        index,
        seed=seed,
        spatial_dims=spatial_dims,
        shape=shape,
        protocol=PROTOCOLS[like],
    )
    packed = []
    for voxels in (patient.image, patient.mask):
        scan = nib.Nifti1Image(voxels, patient.affine)
        scan.header.set_xyzt_units("mm")
        turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(patient.scanner.orientation))
        # A time of 0 in the gzip header gives the same bytes for the same scan.
        content = scan.as_reoriented(turn).to_bytes()
        packed.append(gzip.compress(content, compresslevel=6, mtime=0))
    return _Scan((patient.name, patient.sex, patient.age, patient.scanner.name), *packed)


def _write_hospital(
    folder: Path,
    hospital: Hospital,
    seed: int,
    spatial_dims: Literal[2, 3],
    protocol: Protocol,
    draw: _Draw,
    apply: _Apply,
) -> None:
    """Writes a hospital into an existing, empty folder."""
    (folder / "imagesTr").mkdir()
    (folder / "labelsTr").mkdir()
    entries: dict[str, list[dict[str, str]]] = {"training": [], "validation": []}
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["patient", "sex", "age", "scanner"])
    everyone = range(1, hospital.patients + hospital.held_out + 1)
    for index, scan in zip(everyone, apply(partial(draw, hospital), everyone), strict=True):
        name = scan.row[0]
        image, label = f"imagesTr/{name}.nii.gz", f"labelsTr/{name}.nii.gz"
        (folder / image).write_bytes(scan.image)
        (folder / label).write_bytes(scan.mask)
        part = entries["training" if index <= hospital.patients else "validation"]
        part.append({"patient": name, "image": f"./{image}", "label": f"./{label}"})
        rows.writerow(scan.row)
    write_text(folder / "patients.csv", table.getvalue())
    write_json(
        folder / "dataset.json",
        {
            "name": f"generated brain tumours, {hospital.name}",
            "description": f"No patient is real; seed {seed}, {spatial_dims}-D.",
            "tensorImageSize": "4D",
            "modality": {str(number): name for number, name in enumerate(protocol.channels)},
            "labels": {str(value): name for value, name in enumerate(protocol.labels)},
            "numTraining": len(entries["training"]),
            **{part: listed for part, listed in entries.items() if listed},
        },
    )
