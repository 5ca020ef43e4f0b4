import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from consortium.settings import parse_settings
from consortium.training.bundle import write_bundle
from consortium.training.networks import build_network


@pytest.fixture
def model(tmp_path) -> Path:
    """A model that finds the structure where FLAIR is above its mean."""
    job = parse_settings(
        {
            "data": {
                "channels": ["T1", "FLAIR"],
                "labels": {"tumour": [7]},
                "size": [16, 16],
                "intensity": "zscore",
            },
            "network": {"features": [4, 8]},
        }
    )
    network = build_network(job)
    with torch.no_grad():
        network[1].bias.fill_(3)
    write_bundle(tmp_path / "model", job, network.state_dict(), trained={})
    return tmp_path / "model"


def save(path: Path, shape: tuple[int, ...]) -> Path:
    voxels = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    affine = np.array([[0, -1.2, 0, 3], [0.9, 0, 0, 1], [0, 0, 2.5, -7], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return path


@pytest.mark.parametrize("name", ["mask.nii.gz", "mask.nii"])
def test_the_mask_has_the_scans_shape_and_affine(consortium, model, tmp_path, name):
    image = save(tmp_path / "scan.nii.gz", (20, 18, 6, 2))
    code, printed, errors = consortium("predict", model, image, "-o", tmp_path / name)
    assert (code, errors) == (0, "")
    assert f"wrote {tmp_path / name}" in printed.replace("\n", "")
    mask, scan = nibabel.load(tmp_path / name), nibabel.load(image)
    assert mask.shape == (20, 18, 6)
    assert mask.get_data_dtype() == np.uint8
    assert np.array_equal(mask.affine, scan.affine)
    assert set(np.unique(mask.dataobj)) <= {0, 7}
    assert np.asarray(mask.dataobj).any()
    millilitres = (np.asarray(mask.dataobj) > 0).sum() * 1.2 * 0.9 * 2.5 / 1000
    assert f"{millilitres:.1f} mL" in printed
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def one_line(errors: str, code: str) -> bool:
    return errors.startswith(f"error {code}: ") and errors.count("\n") == 1


def test_an_image_of_other_channels_is_refused_and_nothing_is_written(consortium, model, tmp_path):
    image = save(tmp_path / "scan.nii.gz", (20, 18, 6, 3))
    code, _, errors = consortium("predict", model, image, "-o", tmp_path / "mask.nii.gz")
    assert code == 3
    assert one_line(errors, "wrong-channels")
    assert "the image has 3 channel(s), the model takes 2" in errors
    assert not (tmp_path / "mask.nii.gz").exists()


def test_an_unreadable_image_is_one_line(consortium, model, tmp_path):
    (tmp_path / "scan.nii.gz").write_bytes(b"no image")
    mask = tmp_path / "mask.nii.gz"
    code, _, errors = consortium("predict", model, tmp_path / "scan.nii.gz", "-o", mask)
    assert code == 2
    assert one_line(errors, "unreadable-image")
    code, _, errors = consortium("predict", model, tmp_path / "absent.nii", "-o", mask)
    assert code == 2
    assert one_line(errors, "missing-file")


def test_an_output_that_cannot_be_is_said_before_any_work(consortium, model, tmp_path):
    image = save(tmp_path / "scan.nii.gz", (20, 18, 6, 2))
    before = image.read_bytes()
    for output, code, exit_code in [
        (tmp_path / "absent" / "mask.nii.gz", "missing-folder", 2),
        (tmp_path / "mask.png", "bad-output", 2),
        (image, "same-file", 3),
    ]:
        ended, _, errors = consortium("predict", model, image, "-o", output)
        assert ended == exit_code
        assert one_line(errors, code)
    assert image.read_bytes() == before


def test_a_folder_that_is_no_model_is_refused(consortium, model, tmp_path):
    image = save(tmp_path / "scan.nii.gz", (20, 18, 6, 2))
    metadata = model / "configs/metadata.json"
    raw = json.loads(metadata.read_text())
    raw["consortium"]["settings"]["network"]["features"] = [4, 16]
    metadata.write_text(json.dumps(raw))
    code, _, errors = consortium("predict", model, image, "-o", tmp_path / "mask.nii.gz")
    assert code == 3
    assert one_line(errors, "wrong-architecture")
    metadata.unlink()
    code, _, errors = consortium("predict", model, image, "-o", tmp_path / "mask.nii.gz")
    assert code == 3
    assert one_line(errors, "not-a-bundle")
