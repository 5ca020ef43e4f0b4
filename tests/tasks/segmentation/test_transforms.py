import itertools

import nibabel
import numpy as np
import pytest
import torch

from consortium.tasks.segmentation.settings import Data
from consortium.tasks.segmentation.transforms import (
    RandomGeometryd,
    build_augmentation,
    build_preprocessing,
    preprocessing_config,
)


def data(**changes: object) -> Data:
    return Data.model_validate(
        {
            "channels": ["a", "b"],
            "labels": {"tumour": [1, 2], "core": [2]},
            "size": [16, 12],
            "intensity": "none",
            **changes,
        }
    )


def save(path, voxels, affine=None):
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return str(path)


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.uniform(5, 9, (20, 24, 6, 2)).astype(np.float32)
    image[:4] = 0
    mask = np.zeros((20, 24, 6), np.uint8)
    mask[6:16, 6:18, 1:5], mask[8:12, 8:14, 2:4] = 1, 2
    return {
        "image": save(tmp_path / "image.nii.gz", image),
        "label": save(tmp_path / "label.nii.gz", mask),
    }


def test_a_slice_model_gets_resized_slices_and_every_slice(files):
    sample = build_preprocessing(data(), True)(files)
    assert sample["image"].shape == (2, 16, 12, 6)
    assert sample["image"].dtype == torch.float32
    assert sample["label"].shape == (2, 16, 12, 6)
    assert sample["label"].dtype == torch.uint8
    assert sample["label"].unique().tolist() == [0, 1]


def test_a_patch_model_keeps_the_grid_and_splits_overlapping_structures(files):
    sample = build_preprocessing(data(spatial_dims=3, size=[8, 8, 8]), True)(files)
    mask = np.asarray(nibabel.load(files["label"]).dataobj)
    assert np.array_equal(sample["label"][0], mask > 0)
    assert np.array_equal(sample["label"][1], mask == 2)
    image = np.asarray(nibabel.load(files["image"]).dataobj)
    assert np.array_equal(sample["image"].numpy(), np.moveaxis(image, -1, 0))


def test_a_file_of_three_axes_has_one_channel(tmp_path):
    voxels = np.random.default_rng(0).normal(size=(8, 8, 4)).astype(np.float32)
    for name, shape in (("three", (8, 8, 4)), ("four", (8, 8, 4, 1))):
        path = save(tmp_path / f"{name}.nii", voxels.reshape(shape))
        sample = build_preprocessing(data(size=[8, 8]), False)({"image": path})
        assert np.array_equal(sample["image"].numpy(), voxels[None])


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("flips", [(), (0,), (0, 1, 2)])
def test_the_same_patient_stored_in_another_orientation_gives_the_same_tensor(
    tmp_path, axes, flips
):
    voxels = np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32)
    stored, affine = voxels.transpose(axes), np.zeros((4, 4))
    affine[3, 3] = 1
    for new, old in enumerate(axes):
        affine[old, new] = 1
    for axis in flips:
        stored = np.flip(stored, axis)
        affine[:3, 3] += affine[:3, axis] * (stored.shape[axis] - 1)
        affine[:3, axis] *= -1
    path = save(tmp_path / "scan.nii.gz", np.ascontiguousarray(stored), affine)
    patches = data(spatial_dims=3, size=[8, 8, 8])
    sample = build_preprocessing(patches, False)({"image": path})
    assert np.array_equal(sample["image"][0].numpy(), voxels)


def test_spacing_is_in_millimetres_of_the_patient(tmp_path):
    path = save(tmp_path / "a.nii", np.ones((10, 10, 10), np.float32), np.diag([2, 1, 1, 1.0]))
    spaced = data(spatial_dims=3, size=[8, 8, 8], spacing=[1, 2, 1])
    shape = build_preprocessing(spaced, False)({"image": path})["image"].shape
    assert shape[1] in (19, 20)
    assert shape[2] in (5, 6)
    assert shape[3] == 10


def test_normalisation_is_per_volume_and_channel(files):
    def channels(kind):
        patches = data(spatial_dims=3, size=[8, 8, 8], intensity=kind)
        return build_preprocessing(patches, False)(files)["image"].as_tensor()

    for channel in channels("zscore"):
        assert channel.mean().item() == pytest.approx(0, abs=1e-4)
        assert channel.std().item() == pytest.approx(1, abs=1e-3)
    for channel in channels("zscore-nonzero"):
        assert channel[:4].abs().max() == 0
        assert channel[4:].mean().item() == pytest.approx(0, abs=1e-4)
    for channel in channels("percentiles"):
        assert (channel.min(), channel.max()) == (0, 1)


def test_preprocessing_is_deterministic(files):
    first, again = (build_preprocessing(data(), True)(files) for _ in range(2))
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["label"], again["label"])


def test_an_images_preprocessing_needs_nothing_but_monai():
    for spatial, intensity in itertools.product(
        ({}, {"spatial_dims": 3, "size": [8, 8, 8], "spacing": [1, 1, 1]}),
        ("zscore", "percentiles", "none"),
    ):
        steps = preprocessing_config(data(intensity=intensity, **spatial))
        assert all(step["_target_"].startswith("monai.") for step in steps)


@pytest.mark.parametrize("shape", [(16, 12), (8, 12, 10)])
def test_augmentation_keeps_shapes_and_binary_masks_and_repeats_with_its_seed(shape):
    generator = torch.Generator().manual_seed(0)
    sample = {
        "image": torch.rand(3, *shape, generator=generator),
        "label": (torch.rand(2, *shape, generator=generator) > 0.5).to(torch.uint8),
    }
    kept = {key: tensor.clone() for key, tensor in sample.items()}

    def run(seed):
        augmentation = build_augmentation(data())
        augmentation.set_random_state(seed=seed)
        return [augmentation(sample) for _ in range(10)]

    first, again, other = run(1), run(1), run(2)
    for changed, repeated in zip(first, again, strict=True):
        assert torch.equal(changed["image"], repeated["image"])
        assert torch.equal(changed["label"], repeated["label"])
        assert changed["image"].shape == (3, *shape)
        assert changed["image"].dtype == torch.float32
        assert changed["image"].isfinite().all()
        assert changed["label"].dtype == torch.uint8
        assert set(changed["label"].unique().tolist()) <= {0, 1}
    assert not torch.equal(first[0]["image"], other[0]["image"])
    assert torch.equal(sample["image"], kept["image"])
    assert torch.equal(sample["label"], kept["label"])


@pytest.mark.parametrize("shape", [(48, 32), (24, 32, 20)])
def test_image_and_mask_move_together_and_keep_their_form(shape):
    """A ball stays a ball of nearly its size, also on a grid with unequal sides."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(n) - n / 2 for n in shape], indexing="ij"))
    ball = (grid.square().sum(0) < 49)[None].float()
    move = RandomGeometryd(affine=1, scale=0)
    move.set_random_state(seed=0)
    for _ in range(10):
        moved = move({"image": ball, "label": ball.to(torch.uint8)})
        assert ((moved["image"] > 0.5) == moved["label"].bool()).float().mean() > 0.98
        inside = moved["label"][0].nonzero().float()
        assert len(inside) == pytest.approx(float(ball.sum()), rel=0.12)
        spread = inside.std(0)
        assert spread.max() / spread.min() < 1.1


@pytest.mark.parametrize("allowed", [[], ["left-right"], ["back-front", "down-up"]])
def test_a_sample_is_mirrored_only_in_the_directions_that_are_allowed(allowed):
    names = ["left-right", "back-front", "down-up"]
    settings = data(augment={"flips": allowed}, spatial_dims=3, size=[8, 8, 8])
    geometry = build_augmentation(settings).transforms[0]
    geometry.affine = 0
    geometry.set_random_state(seed=0)
    image = torch.arange(8.0).view(1, 2, 2, 2)
    seen = {}
    for _ in range(60):
        moved = geometry({"image": image, "label": image > 3})
        assert torch.equal(moved["label"], moved["image"] > 3)
        steps = [4, 2, 1]
        # The corner's value says which axes were mirrored.
        corner = int(moved["image"].flatten()[0])
        mirrored = tuple(n for n, step in zip(names, steps, strict=True) if corner & step)
        seen[mirrored] = seen.get(mirrored, 0) + 1
    assert set().union(*seen) == set(allowed)
    assert len(seen) == 2 ** len(allowed)


def test_without_augmentation_nothing_changes():
    sample = {"image": torch.rand(1, 4, 4), "label": torch.ones(1, 4, 4)}
    assert torch.equal(build_augmentation(data(augment=False))(sample)["image"], sample["image"])
