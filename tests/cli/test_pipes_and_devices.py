"""A pipe or a device in place of a file is refused in one sentence; nobody waits for it."""

import os
import shutil

import numpy as np
import pytest
from tests.tiny_hospital import SHAPE
from tests.waiting import without_waiting
from tests.xrays import write_dicom, write_radiographs

from consortium.models.bundle import write_bundle
from consortium.models.networks import build_network
from consortium.tasks.registry import parse_settings

SCANS = {
    "data": {
        "channels": ["T1", "FLAIR"],
        "labels": {"tumour": [1]},
        "size": [16, 16],
        "intensity": "zscore",
    },
    "network": {"features": [4, 8]},
}
XRAYS = {
    "task": "classification",
    "data": {"classes": {"sick": ["sick"], "well": ["well"]}, "size": 32},
    "network": {"features": [8, 8]},
}


def pipe(path):
    os.mkfifo(path)


def device(path):
    # Endless and empty at once: what reads it fills the memory.
    path.symlink_to("/dev/zero")


@pytest.fixture(params=[pipe, device])
def replace(request):
    """Puts a pipe or a device into the place of a file or a folder."""

    def put(path):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        request.param(path)
        return path

    return put


@pytest.fixture
def checked(consortium):
    """Runs a command; returns its exit code and all that it printed."""

    def run(*arguments):
        with without_waiting():
            code, printed, errors = consortium(*arguments)
        assert errors.count("\n") <= 1
        assert "internal" not in errors
        return code, printed + errors

    return run


def bundle_of(raw, folder):
    settings = parse_settings(raw)
    write_bundle(folder, settings, build_network(settings).state_dict(), trained={})
    return folder


@pytest.mark.parametrize("name", ["imagesTr/P3.nii.gz", "labelsTr/P3.nii.gz"])
def test_in_a_hospitals_folder_of_scans(checked, hospital, replace, name):
    replace(hospital.folder / name)
    code, printed = checked("check-data", hospital.folder)
    assert (code, "not a plain file" in printed) == (1, True)


@pytest.mark.parametrize("name", ["imagesTr/P3.nii", "imagesTr/P3.dcm"])
def test_in_place_of_an_image_without_compression(checked, hospital, replace, name):
    replace(hospital.folder / name)
    hospital.content["training"][3]["image"] = name
    hospital.save()
    code, printed = checked("check-data", hospital.folder)
    assert (code, "not a plain file" in printed) == (1, True)


def test_in_place_of_a_dicom_mask(checked, hospital, replace):
    replace(hospital.folder / "labelsTr/P3.dcm")
    hospital.content["training"][3]["label"] = "labelsTr/P3.dcm"
    hospital.save()
    code, printed = checked("check-data", hospital.folder)
    assert (code, "not a plain file" in printed) == (1, True)


@pytest.mark.parametrize("name", ["dataset.json", "labels.csv", "patients.csv"])
def test_in_place_of_the_list_of_cases(checked, tmp_path, replace, name):
    replace(tmp_path / name)
    assert checked("check-data", tmp_path)[0] == 2


@pytest.mark.parametrize("name", ["00.png", "00.dcm"])
def test_in_a_hospitals_folder_of_xrays(checked, tmp_path, replace, name):
    listed = [
        [name, "P0", "normal", "PA"],
        *[[f"{n:02}.png", f"P{n}", "normal", "PA"] for n in range(1, 12)],
    ]
    folder = write_radiographs(tmp_path, listed)
    replace(folder / "images" / name)
    code, printed = checked("check-data", folder)
    assert (code, "not a plain file" in printed) == (1, True)


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nii", "scan.dcm"])
def test_as_the_scan_to_segment(checked, tmp_path, replace, name):
    model = bundle_of(SCANS, tmp_path / "model")
    scans = [replace(tmp_path / name), replace(tmp_path / f"2{name}")]
    assert checked("predict", model, *scans, "-o", tmp_path / "mask.nii.gz")[0] == 2


@pytest.mark.parametrize("name", ["xray.png", "xray.dcm"])
def test_as_the_xray_to_classify(checked, tmp_path, replace, name):
    model = bundle_of(XRAYS, tmp_path / "model")
    xray = replace(tmp_path / name)
    assert checked("predict", model, xray, "-o", tmp_path / "out.csv")[0] == 2


@pytest.mark.parametrize("name", ["configs/metadata.json", "models/model.safetensors"])
def test_as_a_file_of_the_model(checked, tmp_path, replace, name):
    model = bundle_of(XRAYS, tmp_path / "model")
    xray = write_dicom(tmp_path / "xray.dcm", np.ones(SHAPE[:2], np.uint16))
    replace(model / name)
    assert checked("predict", model, xray, "-o", tmp_path / "out.csv")[0] == 3


@pytest.mark.parametrize("option", ["--job"])
def test_as_a_file_of_settings(checked, hospital, replace, tmp_path, option):
    settings = replace(tmp_path / "settings.json")
    assert checked("check-data", hospital.folder, option, settings)[0] == 2
