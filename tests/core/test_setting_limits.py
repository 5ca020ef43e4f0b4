"""The ranges of a job's settings that a hospital accepts."""

import json

import pytest
from pydantic import ValidationError
from tests.conftest import ROOT

from consortium.core.json_files import read_json_object
from consortium.core.setting_limits import SettingLimits
from consortium.kits.hospital import HospitalFile
from consortium.settings.base import override
from consortium.study.job_folder import SETTINGS
from consortium.tasks.registry import parse_settings

JOBS = sorted((ROOT / "jobs").iterdir())
FILES = sorted(path for job in JOBS for path in (job / SETTINGS, *job.glob("variants/*.json")))
VARIANTS = {"variants.json": "tumor_segmentation", "covid.json": "covid_detection"}
NO_SETTINGS = {"heart_split.json", "lgg_folds.json"}


def outside(raw, **limits):
    return SettingLimits.model_validate(limits).outside(parse_settings(raw).model_dump())


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_defaults_admit_every_settings_file(file):
    assert outside(read_json_object(file)) is None


def test_the_defaults_admit_every_variant_of_the_benchmarks():
    found = {path.name for path in (ROOT / "scripts" / "benchmarks").glob("*.json")}
    assert found == VARIANTS.keys() | NO_SETTINGS
    for name, job in VARIANTS.items():
        raw = read_json_object(ROOT / "jobs" / job / SETTINGS)
        for variant in json.loads((ROOT / "scripts" / "benchmarks" / name).read_text()):
            assert outside(override(raw, variant["set"])) is None, variant["name"]


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("training.learning_rate=1", "training.learning_rate is 1; this hospital accepts 0 to 0.5"),
        ("training.clip=1e9", "training.clip is 1000000000; this hospital accepts 0 to 100"),
        ("training.local_steps=1000000", "training.local_steps is 1000000; this hospital accepts"),
        ("training.local_epochs=2000", "training.local_epochs is 2000; this hospital accepts"),
        ("training.local_minutes=1e6", "training.local_minutes is 1000000; this hospital accepts"),
        ("training.batch=5000", "training.batch is 5000; this hospital accepts 1 to 1024"),
        ("rounds=5000", "rounds is 5000; this hospital accepts 1 to 1000"),
    ],
)
def test_what_is_outside_is_named(assignment, words):
    assert outside(override(read_json_object(FILES[0]), [assignment])).startswith(words)


def test_a_hospital_narrows_one_range_and_keeps_the_others():
    raw = read_json_object(FILES[0])
    batch = raw["training"]["batch"]
    assert outside(raw, training={"batch": [batch + 1, 64]}).startswith("training.batch is")
    assert outside(raw, training={"batch": [batch, batch]}) is None
    wide = override(raw, ["training.clip=1e9"])
    assert outside(wide, training={"batch": [1, 64]}).startswith("training.clip is")


@pytest.mark.parametrize(
    "settings",
    [
        {"training": {"clip": [9, 1]}},
        {"training": {"clip": 9}},
        {"training": {"clip": [0, float("inf")]}},
        {"training": {"clips": [0, 9]}},
        {"round": [1, 9]},
    ],
)
def test_a_wrong_range_or_name_in_the_hospitals_file_is_refused(settings):
    with pytest.raises(ValidationError):
        HospitalFile.model_validate({"privacy": {"settings": settings}})


def test_the_file_of_a_new_kit_reads_back():
    written = json.loads(json.dumps(HospitalFile().model_dump()))
    assert HospitalFile.model_validate(written) == HospitalFile()
