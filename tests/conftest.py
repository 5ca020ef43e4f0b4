"""What several rooms' tests share: small generated hospitals, and settings to match."""

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import settings
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from tests.lanes import pytest_collection_modifyitems, pytest_runtest_setup  # noqa: F401
from tests.tiny_hospital import TinyHospital

from consortium.cli.main import app
from consortium.cli.run import run_app
from consortium.client.fork_server import ADDRESS, fork_server
from consortium.core.json_files import read_json_object
from consortium.settings.base import override
from consortium.synthetic.dataset import generate
from consortium.synthetic.hospitals import HOSPITALS
from consortium.tasks.registry import parse_settings
from consortium.tasks.tabular.synthetic import generate_tables

# No test asserts a time, and what is compiled at its first use takes some. The examples are others
# in every run, so that fewer of them in one run leave nothing out over several.
settings.register_profile("without a clock", deadline=None, max_examples=50)
settings.load_profile("without a clock")

ROOT = Path(__file__).parents[1]
JOB = ROOT / "jobs" / "tumor_segmentation"
REAL = Path(os.environ.get("CONSORTIUM_REAL_DATA") or ROOT.parent / "shared" / "data")
LGG = REAL / "lgg"
# Only where nobody has such a folder: where there is one, data that it lacks are a failure.
needs_real_data = pytest.mark.skipif(
    "CONSORTIUM_REAL_DATA" not in os.environ and not REAL.is_dir(),
    reason=f"real patients' data are not shipped, some may not be, and {REAL} is not there",
)
TINY = [
    "rounds=2",
    "data.size=[32,32]",
    "network.features=[4,8]",
    "training.local_steps=2",
    "training.batch=2",
]


@pytest.fixture(scope="session")
def fork_address():
    """The address of a fork server for trainers; tests of isolation and of kills spawn instead."""
    with fork_server({key: os.environ[key] for key in os.environ if key != ADDRESS}) as environment:
        yield environment[ADDRESS]


@pytest.fixture(scope="session")
def generated(tmp_path_factory):
    """Three hospitals of 7, 6 and 6 patients; shared, so not to be written into."""
    folder = tmp_path_factory.mktemp("generated") / "hospitals"
    counts = (7, 6, 6)
    hospitals = [
        replace(hospital, patients=count, held_out=0)
        for hospital, count in zip(HOSPITALS, counts, strict=False)
    ]
    generate(folder, hospitals, seed=1, in_plane=32, slices=6)
    return folder


@pytest.fixture
def hospitals(generated, tmp_path):
    """A copy of the hospitals to damage."""
    shutil.copytree(generated, tmp_path / "hospitals")
    return tmp_path / "hospitals"


@pytest.fixture
def hospital(tmp_path):
    """Eight sound patients, P0 to P7."""
    made = TinyHospital(tmp_path / "hospital")
    for number in range(8):
        made.add(f"P{number}", number)
    return made


@pytest.fixture(scope="session")
def tiny():
    """The job's settings, made small; further KEY=VALUE changes as arguments."""

    def make(*assignments):
        raw = read_json_object(JOB / "app" / "config" / "settings.json")
        return parse_settings(override(raw, [*TINY, *assignments]))

    return make


@pytest.fixture(scope="session")
def clinics(tmp_path_factory):
    """Tables of four hospitals; shared, so not to be written into."""
    folder = tmp_path_factory.mktemp("clinics") / "clinics"
    generate_tables(folder, seed=0)
    return folder


@pytest.fixture(scope="session")
def light():
    """The settings of the job on tables, whose trainers need no MONAI and start soonest."""

    def make(*assignments):
        raw = read_json_object(ROOT / "jobs" / "heart_disease" / "app" / "config" / "settings.json")
        return parse_settings(override(raw, list(assignments)))

    return make


@pytest.fixture
def consortium(capsys):
    """Runs the command in this process; returns its exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            run_app(app, [str(argument) for argument in arguments])
        return (ended.value.code, *capsys.readouterr())

    return run


def write_series(
    folder: Path,
    voxels: np.ndarray,
    affine: np.ndarray,
    *,
    change: Callable[[pydicom.Dataset, int], object] = lambda dataset, number: None,
    **values: object,
) -> Path:
    """Writes a volume as a scanner would: one file a slice, names and numbers in no order.

    Args:
        folder: to fill.
        voxels: int16 (column, row, slice).
        affine: voxel to mm to the right, front and up; axes at right angles.
        change: alters a slice's headers before they are written, given the slice's number.
        values: attributes of every slice.
    """
    folder.mkdir(parents=True)
    scanner = np.diag([-1.0, -1, 1, 1]) @ affine
    lengths = np.linalg.norm(scanner[:3, :3], axis=0)
    columns, rows = (scanner[:3, i] / lengths[i] for i in (0, 1))
    for number in range(voxels.shape[2]):
        dataset = pydicom.Dataset()
        dataset.SOPClassUID = MRImageStorage
        dataset.SOPInstanceUID = generate_uid(entropy_srcs=[folder.name, str(number)])
        dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[folder.name])
        dataset.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
        dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame"])
        dataset.Modality, dataset.PatientID, dataset.PatientName = "MR", "P-17", "P-17"
        dataset.StudyDate, dataset.StudyTime = "20240229", "101112"
        dataset.SeriesNumber, dataset.InstanceNumber = 3, (7 * number) % 11 + 1
        dataset.ImagePositionPatient = [round(float(v), 9) for v in scanner[:3] @ [0, 0, number, 1]]
        dataset.ImageOrientationPatient = [round(float(v), 12) for v in (*columns, *rows)]
        dataset.PixelSpacing = [round(float(lengths[1]), 9), round(float(lengths[0]), 9)]
        dataset.SliceThickness = round(float(lengths[2]), 9)
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.Columns, dataset.Rows = voxels.shape[:2]
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 1
        dataset.PixelData = np.ascontiguousarray(voxels[:, :, number].T, "<i2").tobytes()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
        change(dataset, number)
        name = f"{hash_of(number)}.dcm"
        dataset.save_as(folder / name, enforce_file_format=True)
    return folder


def hash_of(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()[:8]


@pytest.fixture(name="write_series")
def _write_series():
    return write_series


def oblique(spacing: tuple[float, float, float]) -> np.ndarray:
    """An affine turned about two axes, voxels of three different sides."""
    a, b = 0.3, -0.2
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    # Rows run to the left and columns to the back, as scanners write them.
    affine[:3, :3] = about_z @ about_x @ np.diag([-spacing[0], -spacing[1], spacing[2]])
    affine[:3, 3] = [31.5, -12.25, 40.125]
    return affine


@pytest.fixture(name="oblique")
def _oblique():
    return oblique((0.8, 1.1, 2.5))
