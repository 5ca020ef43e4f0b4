"""A hospital whose scans are DICOM trains and is scored like one whose scans are NIfTI."""

import json

import nibabel
import numpy as np
import pytest
import torch

from consortium.client.trainer import LocalTrainer
from consortium.core.errors import UsageError
from consortium.core.site_policy import Site, simulated_privacy
from consortium.imaging.dicom import open_series
from consortium.imaging.dicom_seg import Algorithm, write_segmentation
from consortium.models.bundle import write_bundle
from consortium.models.networks import build_network
from consortium.protocol.codec import digest
from consortium.tasks.registry import parse_settings
from consortium.tasks.segmentation.checks import check_folder

SHAPE = (16, 14, 5)
JOB = {
    "data": {"channels": ["T1", "FLAIR"], "labels": {"tumour": [2]}, "size": [16, 16]},
    "network": {"features": [4, 8]},
    "training": {"local_steps": 2, "batch": 2},
    "rounds": 1,
}


@pytest.fixture
def folders(tmp_path, write_series, oblique):
    """One hospital twice: in NIfTI, and in DICOM with segmentations as masks."""
    rng = np.random.default_rng(0)
    lists = {"nifti": [], "dicom": []}
    for name in lists:
        (tmp_path / name / "labelsTr").mkdir(parents=True)
    for number in range(6):
        voxels = rng.integers(-500, 500, (*SHAPE, 2)).astype(np.int16)
        mask = np.zeros(SHAPE, np.uint8)
        mask[3 + number : 9 + number, 4:9, 1:4] = 1
        for name, array in (("i", voxels), ("m", mask * 2)):
            image = nibabel.Nifti1Image(array, oblique)
            nibabel.save(image, tmp_path / "nifti" / f"{name}{number}.nii.gz")
        scans = [
            write_series(tmp_path / "dicom" / f"P{number}" / name, voxels[..., i], oblique)
            for i, name in enumerate(("t1", "flair"))
        ]
        seg = f"labelsTr/P{number}.dcm"
        write_segmentation(
            tmp_path / "dicom" / seg,
            {"Tumour": mask},
            open_series(scans[1], "flair"),
            Algorithm("a person", "1", "1"),
        )
        patient = {"patient": f"P{number}"}
        lists["nifti"].append(
            patient | {"image": f"i{number}.nii.gz", "label": f"m{number}.nii.gz"}
        )
        lists["dicom"].append(
            patient | {"image": [f"P{number}/t1", f"P{number}/flair"], "label": seg}
        )
    for name, cases in lists.items():
        content = {
            "modality": {"0": "T1", "1": "FLAIR"},
            "labels": {"0": "background", "2": "tumour"},
            "training": cases[:4],
            "validation": cases[4:],
        }
        (tmp_path / name / "dataset.json").write_text(json.dumps(content))
    return tmp_path


def test_a_round_on_dicom_is_the_very_round_on_nifti(folders):
    job = parse_settings(JOB)
    base = build_network(job, 1).state_dict()
    answers = []
    for name in ("nifti", "dicom"):
        assert check_folder(folders / name, job) == []
        (folders / f"state-{name}").mkdir()
        site = Site(
            "north",
            folders / name,
            folders / f"state-{name}",
            smallest_group=1,
            privacy=simulated_privacy(1),
        )
        hospital = LocalTrainer(site, job, device=torch.device("cpu"))
        answers.append(hospital.train(base, 0))
    nifti, dicom = answers
    assert digest(dicom.tensors) == digest(nifti.tensors)
    assert dicom.metrics.loss == nifti.metrics.loss
    assert dicom.metrics.validation == nifti.metrics.validation is not None


def test_a_broken_series_stops_the_hospital(folders):
    lost = folders / "dicom/P0/t1"
    for file in lost.iterdir():
        file.unlink()
    (folders / "state").mkdir()
    site = Site("north", folders / "dicom", folders / "state")
    with pytest.raises(UsageError, match="empty-series") as refusal:
        LocalTrainer(site, parse_settings(JOB), device=torch.device("cpu"))
    assert refusal.value.code == "data-unfit"


def test_scores_on_dicom_are_those_on_nifti(folders, consortium):
    job = parse_settings(JOB)
    network = build_network(job, 1)
    with torch.no_grad():
        network[1].bias.fill_(0.5)
    write_bundle(folders / "model", job, network.state_dict(), trained={})
    scores = []
    for name in ("nifti", "dicom"):
        file = folders / f"{name}.json"
        code, _, errors = consortium(
            "evaluate", folders / "model", "--data", folders / name, "--json", file
        )
        assert (code, errors) == (0, "")
        scores.append(json.loads(file.read_text()))
    assert scores[0]["mean"]["dice"]["tumour"] > 0
    for nifti, dicom in zip(scores[0]["cases"], scores[1]["cases"], strict=True):
        assert dicom["dice"] == nifti["dice"]
        for kind in ("tumour",):
            assert dicom["hd95"][kind] == pytest.approx(nifti["hd95"][kind], abs=1e-4)
