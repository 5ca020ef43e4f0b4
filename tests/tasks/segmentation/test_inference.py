import gzip
import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from tests.conftest import LGG, needs_real_data

from consortium.core.errors import Refused, UsageError
from consortium.models.networks import build_network
from consortium.settings.base import Settings
from consortium.tasks.registry import parse_settings
from consortium.tasks.segmentation.inference import (
    binarise,
    load_case,
    predict_case,
    predict_probabilities,
    restore,
    to_mask,
    write_mask,
)
from consortium.tasks.segmentation.scores import dice
from consortium.tasks.segmentation.transforms import build_preprocessing

JEFFERSON = LGG / "thomas_jefferson"


def settings(**data: object) -> Settings:
    base = {
        "channels": ["a"],
        "labels": {"tumour": [1]},
        "size": [16, 16],
        "intensity": "none",
    }
    return parse_settings({"data": base | data, "network": {"features": [4, 8]}})


PATCHES = {"spatial_dims": 3, "size": [16, 16, 16]}


class Copy(torch.nn.Module):
    """A perfect network: each channel of the image is a structure's mask."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (image - 0.5) * 50


def save(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return path


def blobs(shape: tuple[int, int, int]) -> np.ndarray:
    """A smooth blob of value 1 next to one of value 2."""
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    mask = np.zeros(shape, np.uint8)
    mask[sum((axis - 0.1) ** 2 for axis in axes) < 0.3] = 1
    mask[sum((axis + 0.5) ** 2 for axis in axes) < 0.15] = 2
    return mask


def oriented(voxels: np.ndarray, axes: tuple[int, ...], flips: tuple[int, ...], sizes: list[float]):
    """The same patient with permuted and flipped axes, with the matching affine."""
    stored = voxels.transpose(axes)
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for new, old in enumerate(axes):
        affine[old, new] = sizes[old]
    for axis in flips:
        stored = np.flip(stored, axis)
        affine[:3, 3] += affine[:3, axis] * (stored.shape[axis] - 1)
        affine[:3, axis] *= -1
    return np.ascontiguousarray(stored), affine


ORIENTATIONS = [*itertools.product([(0, 1, 2), (2, 0, 1), (1, 0, 2)], [(), (0,), (1, 2)])]


@pytest.mark.parametrize(("axes", "flips"), ORIENTATIONS)
@pytest.mark.parametrize("dims", [2, 3])
def test_a_right_network_gives_back_every_voxel_in_any_orientation(tmp_path, dims, axes, flips):
    noise = (np.random.default_rng(0).random((16, 16, 9)) > 0.5).astype(np.uint8)
    stored, affine = oriented(noise, axes, flips, [1, 1, 1])
    image = save(tmp_path / "image.nii.gz", stored.astype(np.float32), affine)
    label = save(tmp_path / "label.nii.gz", stored, affine)
    job = settings(**PATCHES) if dims == 3 else settings()
    case = load_case(job, image, label)
    predicted = predict_case(Copy(), case, job, "cpu")
    assert predicted.dtype == torch.uint8
    assert torch.equal(predicted[0], torch.from_numpy(stored))
    assert torch.equal(predicted, case.label_original)
    assert np.array_equal(case.affine_original, affine)


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0)])
@pytest.mark.parametrize(
    "data",
    [
        {"size": [32, 40]},
        {"size": [80, 80], "spacing": [1, 1, 2]},
        {**PATCHES, "spacing": [1.0, 1.0, 1.0]},
        {**PATCHES, "spacing": [0.7, 1.3, 2.0]},
    ],
)
def test_a_right_prediction_survives_resampling_there_and_back(tmp_path, data, axes):
    mask, affine = oriented(blobs((48, 52, 24)), axes, (0,), [0.9, 0.8, 2.0])
    image = save(tmp_path / "image.nii.gz", mask.astype(np.float32), affine)
    label = save(tmp_path / "label.nii.gz", mask, affine)
    job = settings(labels={"one": [1], "two": [2]}, **data)
    case = load_case(job, image, label)
    perfect = build_preprocessing(job.data, True)({"image": str(image), "label": str(label)})
    restored = restore(perfect["label"].float().as_tensor(), case.image, job)
    assert restored.shape == case.label_original.shape
    assert min(dice(binarise(restored, job), case.label_original)) > 0.95
    assert sorted(case.spacing_original) == pytest.approx([0.8, 0.9, 2.0])


@pytest.mark.parametrize("shape", [(9, 30, 12), (33, 16, 20), (40, 41, 42)])
def test_volumes_smaller_or_larger_than_the_patch_are_segmented_whole(tmp_path, shape):
    voxels = (np.random.default_rng(0).random(shape) > 0.5).astype(np.float32)
    job = settings(**PATCHES)
    case = load_case(job, save(tmp_path / "a.nii", voxels), None)
    assert np.array_equal(predict_case(Copy(), case, job, "cpu")[0], voxels)
    assert case.label_original is None


@pytest.mark.parametrize("training", [True, False])
def test_inference_evaluates_without_gradient_and_leaves_the_network_as_it_was(tmp_path, training):
    job = settings()
    image = save(tmp_path / "a.nii", np.random.default_rng(0).normal(size=(16, 16, 5)))
    case = load_case(job, image, None)
    network = build_network(job).train(training)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    first = predict_probabilities(network, case.image, job, "cpu")
    assert torch.equal(first, predict_probabilities(network, case.image, job, "cpu"))
    assert network.training is training
    assert type(first) is torch.Tensor
    assert not first.requires_grad
    assert first.shape == (1, 16, 16, 5)
    assert all(torch.equal(before[name], now) for name, now in network.state_dict().items())


def test_of_exclusive_structures_the_most_probable_wins():
    job = settings(labels={"a": [3], "b": [1]})
    probabilities = torch.tensor([[0.6, 0.9, 0.4, 0.2], [0.7, 0.8, 0.3, 0.6]])[:, :, None, None]
    binary = binarise(probabilities, job)
    assert binary[:, :, 0, 0].tolist() == [[0, 1, 0, 0], [1, 0, 0, 1]]
    assert to_mask(binary, job)[:, 0, 0].tolist() == [1, 3, 0, 1]


def test_overlapping_structures_are_painted_in_their_order_with_their_first_value():
    job = settings(labels={"whole": [2, 1, 4], "core": [1, 4], "enhancing": [4]})
    probabilities = torch.tensor([[0.9, 0.9, 0.9, 0.1], [0.1, 0.8, 0.8, 0.1], [0.1, 0.1, 0.6, 0.7]])
    binary = binarise(probabilities[:, :, None, None], job)
    assert binary.sum().item() == 7
    assert to_mask(binary, job)[:, 0, 0].tolist() == [2, 1, 4, 4]


def test_a_mask_is_written_with_the_same_bytes_every_time(tmp_path):
    mask = torch.from_numpy(blobs((5, 6, 7)))
    affine = np.diag([1.5, 2, 2.5, 1])
    for name in ("one.nii.gz", "two.nii.gz", "three.nii"):
        write_mask(tmp_path / name, mask, affine)
        stored = nibabel.load(tmp_path / name)
        assert np.array_equal(np.asarray(stored.dataobj), mask)
        assert stored.get_data_dtype() == np.uint8
        assert np.array_equal(stored.affine, affine)
    first, second, plain = (tmp_path / name for name in ("one.nii.gz", "two.nii.gz", "three.nii"))
    assert first.read_bytes() == second.read_bytes()
    assert gzip.decompress(first.read_bytes()) == plain.read_bytes()


def test_a_file_that_is_no_image_is_one_line(tmp_path):
    good = save(tmp_path / "good.nii.gz", np.ones((16, 16, 8), np.float32)).read_bytes()
    for name, content in {
        "text.nii.gz": b"hello",
        "empty.nii": b"",
        "cut.nii.gz": good[: len(good) // 2],
        "text.txt": b"hello",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError) as caught:
            load_case(settings(), tmp_path / name, None)
        assert str(caught.value) == (
            "error unreadable-image: not a NIfTI file, or damaged, "
            f"{tmp_path / name}, copy or export it again"
        )
    with pytest.raises(UsageError, match="missing-file"):
        load_case(settings(), tmp_path / "absent.nii", None)
    with pytest.raises(UsageError, match=r"has shape \(4, 4\)"):
        load_case(settings(), save(tmp_path / "flat.nii", np.ones((4, 4))), None)
    hollow = np.ones((16, 16, 4), np.float32)
    hollow[3, 3, 3] = np.nan
    with pytest.raises(UsageError, match="NaN or infinite"):
        load_case(settings(), save(tmp_path / "nan.nii", hollow), None)


def test_an_image_of_other_channels_is_refused(tmp_path):
    image = save(tmp_path / "two.nii", np.ones((8, 8, 4, 2), np.float32))
    with pytest.raises(Refused) as caught:
        load_case(settings(), image, None)
    assert str(caught.value) == (
        f"error wrong-channels: the image has 2 channel(s), the model takes 1, {image}, "
        "give a in this order"
    )


@pytest.mark.parametrize("change", ["shape", "affine"])
def test_a_mask_on_another_grid_is_not_compared(tmp_path, change):
    image = save(tmp_path / "image.nii", np.ones((8, 8, 4), np.float32))
    shape = (8, 8, 5) if change == "shape" else (8, 8, 4)
    affine = np.diag([1, 1, 2, 1.0]) if change == "affine" else np.eye(4)
    label = save(tmp_path / "label.nii", np.ones(shape, np.uint8), affine)
    with pytest.raises(UsageError, match="mask-mismatch"):
        load_case(settings(), image, label)


@needs_real_data
def test_real_masks_survive_the_way_to_a_quarter_of_the_voxels_and_back():
    job = settings(
        channels=["pre-contrast", "FLAIR", "post-contrast"],
        size=[64, 64],
        intensity="zscore-nonzero",
    )
    for image in sorted((JEFFERSON / "imagesTr").iterdir())[:3]:
        label = JEFFERSON / "labelsTr" / image.name
        case = load_case(job, image, label)
        assert case.image.shape[:3] == (3, 64, 64)
        perfect = build_preprocessing(job.data, True)({"image": str(image), "label": str(label)})
        restored = restore(perfect["label"].float().as_tensor(), case.image, job)
        assert dice(binarise(restored, job), case.label_original)[0] > 0.88
