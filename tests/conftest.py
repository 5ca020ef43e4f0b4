"""What several rooms' tests share: small generated hospitals, and settings to match."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from consortium.cli.main import app
from consortium.cli.run import run_app
from consortium.generator.dataset import generate
from consortium.generator.hospitals import HOSPITALS
from consortium.settings import override, parse_settings, read_json_object

ROOT = Path(__file__).parents[1]
JOB = ROOT / "jobs" / "tumor_segmentation"
TINY = [
    "rounds=2",
    "data.size=[32,32]",
    "network.features=[4,8]",
    "training.local_steps=2",
    "training.batch=2",
]


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


@pytest.fixture(scope="session")
def tiny():
    """The job's settings, made small; further KEY=VALUE changes as arguments."""

    def make(*assignments):
        raw = read_json_object(JOB / "app" / "config" / "settings.json")
        return parse_settings(override(raw, [*TINY, *assignments]))

    return make


@pytest.fixture
def consortium(capsys):
    """Runs the command in this process; returns its exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            run_app(app, [str(argument) for argument in arguments])
        return (ended.value.code, *capsys.readouterr())

    return run
