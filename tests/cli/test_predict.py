import hashlib
import json
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
import torch

from consortium.models.bundle import write_bundle
from consortium.models.networks import build_network
from consortium.tasks.registry import parse_settings


@pytest.fixture
def model(tmp_path) -> Path:
    """A model that segments some of the voxels."""
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
        network[1].bias.fill_(0)
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


def test_an_impossible_output_is_refused_before_any_work(consortium, model, tmp_path):
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


@pytest.fixture
def series(tmp_path, write_series, oblique):
    """The same scan as two DICOM series, and as one NIfTI file of two channels."""
    voxels = np.random.default_rng(0).integers(0, 900, (20, 18, 6, 2)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, oblique), tmp_path / "scan.nii.gz")
    return [
        write_series(tmp_path / name, voxels[..., i], oblique) for i, name in enumerate(("t1", "f"))
    ]


def test_the_mask_of_a_dicom_series_is_that_of_the_same_scan_as_nifti(
    consortium, model, tmp_path, series
):
    masks = []
    for name, images in (("dicom", series), ("nifti", [tmp_path / "scan.nii.gz"])):
        path = tmp_path / f"{name}.nii.gz"
        code, printed, errors = consortium("predict", model, *images, "-o", path)
        assert (code, errors) == (0, "")
        masks.append((nibabel.load(path), printed.split(": ")[1]))
    (dicom, volume), (nifti, other_volume) = masks
    assert np.asarray(dicom.dataobj).any()
    assert not np.asarray(dicom.dataobj).all()
    assert np.array_equal(dicom.dataobj, nifti.dataobj)
    assert np.allclose(dicom.affine, nifti.affine, atol=1e-5)
    assert volume == other_volume


def test_a_dicom_segmentation_holds_the_voxels_of_the_nifti_mask(
    consortium, model, tmp_path, series
):
    for name in ("mask.nii.gz", "mask.dcm", "again.dcm"):
        code, printed, errors = consortium("predict", model, *series, "-o", tmp_path / name)
        assert (code, errors) == (0, "")
        assert "mL segmented" in printed
    assert (tmp_path / "mask.dcm").read_bytes() == (tmp_path / "again.dcm").read_bytes()
    mask = nibabel.load(tmp_path / "mask.nii.gz")
    segmentation = highdicom.seg.segread(tmp_path / "mask.dcm")
    volume = segmentation.get_volume(combine_segments=True)
    to_mask = np.linalg.inv(mask.affine) @ np.diag([-1, -1, 1, 1]) @ volume.affine
    indices = np.argwhere(volume.array)
    segmented = np.rint(indices @ to_mask[:3, :3].T + to_mask[:3, 3]).astype(int)
    expected = np.argwhere(np.asarray(mask.dataobj) == 7)
    assert sorted(map(tuple, segmented)) == sorted(map(tuple, expected))
    [algorithm] = segmentation.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    assert algorithm.AlgorithmName == "Consortium segmentation"
    weights = (model / "models/model.safetensors").read_bytes()
    assert algorithm.AlgorithmVersion == hashlib.sha256(weights).hexdigest()[:16]
    first = pydicom.dcmread(next(series[0].iterdir()))
    [referenced] = segmentation.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == first.SeriesInstanceUID
    assert segmentation.FrameOfReferenceUID == first.FrameOfReferenceUID


def test_a_segmentation_of_nifti_or_inside_its_series_is_refused(
    consortium, model, tmp_path, series
):
    for images, output, refusal, exit_code in [
        ([tmp_path / "scan.nii.gz"], tmp_path / "mask.dcm", "bad-output", 2),
        (series, series[1] / "mask.dcm", "inside-series", 3),
    ]:
        code, _, errors = consortium("predict", model, *images, "-o", output)
        assert code == exit_code
        assert one_line(errors, refusal)
        assert not output.exists()


def test_a_series_that_is_none_is_one_line(consortium, model, tmp_path, series, write_series):
    affine = np.eye(4)
    other = write_series(tmp_path / "other", np.ones((20, 18, 6), np.int16), affine)
    missing = sorted(series[1].iterdir(), key=lambda f: pydicom.dcmread(f).ImagePositionPatient[2])[
        2
    ]
    mask = tmp_path / "mask.nii.gz"
    code, _, errors = consortium("predict", model, series[0], other, "-o", mask)
    assert code == 2
    assert one_line(errors, "channel-mismatch")
    code, _, errors = consortium("predict", model, series[0], "-o", mask)
    assert code == 3
    assert one_line(errors, "wrong-channels")
    missing.write_bytes(missing.read_bytes()[:-9])
    code, _, errors = consortium("predict", model, *series, "-o", mask)
    assert code == 2
    assert one_line(errors, "unreadable-file")
    assert missing.name in errors
    missing.unlink()
    code, _, errors = consortium("predict", model, *series, "-o", mask)
    assert code == 2
    assert one_line(errors, "missing-slices")
    assert "about 1 of 6 slices are missing" in errors
    assert not mask.exists()
