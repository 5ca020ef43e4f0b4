import dataclasses
import itertools

import nibabel
import numpy as np
import pytest
import torch

from consortium.tasks.segmentation.batches import VolumeBatches
from consortium.tasks.segmentation.datalist import read_datalist


def take(cohort, number, batch=6, seed=1):
    return list(itertools.islice(cohort.batches(batch, seed), number))


@pytest.fixture(scope="module")
def cases(generated):
    return read_datalist(generated / "north").cases


def test_a_batch_has_the_declared_shape_and_share_of_tumour(cases, tiny):
    data = tiny("data.tumour_fraction=0.5", "data.augment=false").data
    for images, masks in take(VolumeBatches(cases, data), 5):
        assert (images.shape, masks.shape) == ((6, 3, 32, 32), (6, 1, 32, 32))
        assert images.dtype == masks.dtype == torch.float32
        labelled = masks.flatten(1).any(dim=1).tolist()
        assert labelled[:3] == [True] * 3
        assert labelled[3:] == [False] * 3


def test_masks_stay_zeros_and_ones_under_augmentation(cases, tiny):
    for _, masks in take(VolumeBatches(cases, tiny().data), 5):
        assert set(masks.unique().tolist()) <= {0.0, 1.0}


def test_the_stream_depends_on_the_seed_and_on_nothing_else(cases, tiny):
    data = tiny().data
    cohort = VolumeBatches(cases, data)
    first = take(cohort, 4)
    torch.manual_seed(99)
    for again in (
        cohort,
        VolumeBatches(cases, data),
        VolumeBatches(cases, tiny("data.cache=0").data),
    ):
        for (images, masks), (same_images, same_masks) in zip(first, take(again, 4), strict=True):
            assert torch.equal(images, same_images)
            assert torch.equal(masks, same_masks)
    assert not torch.equal(first[0][0], take(cohort, 1, seed=2)[0][0])


def test_every_slice_with_tumour_comes_before_any_comes_again(cases, tiny):
    data = tiny("data.tumour_fraction=1.0", "data.augment=false").data
    cohort = VolumeBatches(cases, data)
    slices = len(cohort.with_structure)
    seen = {masks[0].numpy().tobytes() for _, masks in take(cohort, slices, batch=1)}
    assert len(seen) > 0.9 * slices


def test_patches_in_3d_are_on_a_structure_as_often_as_declared(cases, tiny):
    settings = tiny(
        "data.spatial_dims=3", "data.size=[8,8,4]", "data.augment=false", "data.tumour_fraction=0.5"
    )
    for images, masks in take(VolumeBatches(cases, settings.data), 4, batch=4):
        assert (images.shape, masks.shape) == ((4, 3, 8, 8, 4), (4, 1, 8, 8, 4))
        assert masks[:2].flatten(1).any(dim=1).all()


def test_a_patch_larger_than_the_volume_is_padded_on_both_sides(cases, tiny):
    settings = tiny("data.spatial_dims=3", "data.size=[48,48,16]", "data.augment=false")
    images, _ = take(VolumeBatches(cases, settings.data), 1, batch=2)[0]
    assert images.shape == (2, 3, 48, 48, 16)
    for image in images:
        filled = (image != 0).any(dim=0)
        for axis, (wide, size) in enumerate(((32, 48), (32, 48), (6, 16))):
            others = [other for other in range(3) if other != axis]
            along = filled.any(dim=max(others)).any(dim=min(others)).nonzero().flatten()
            assert (along.min(), along.max()) == ((size - wide) // 2, (size + wide) // 2 - 1)


def test_a_patch_has_image_and_mask_of_one_position_and_reaches_every_edge(cases, tiny, tmp_path):
    """Each voxel holds its own number, so that a patch shows its position."""
    numbers = np.arange(12 * 10 * 9, dtype=np.float32).reshape(12, 10, 9)
    mask = np.zeros(numbers.shape, np.uint8)
    mask[2, 3, 4] = mask[11, 9, 8] = 1
    three = np.repeat(numbers[..., None], 3, axis=3)
    for name, voxels in (("image", three), ("label", mask)):
        nibabel.Nifti1Image(voxels, np.eye(4)).to_filename(tmp_path / f"{name}.nii.gz")
    case = dataclasses.replace(
        cases[0], image=tmp_path / "image.nii.gz", label=tmp_path / "label.nii.gz"
    )
    sizes = ["data.spatial_dims=3", "data.size=[8,8,4]", "data.augment=false"]
    for share, corners in (
        (1.0, {(0, 0, 2), (4, 2, 5)}),
        (0.0, set(itertools.product(range(5), range(3), range(6)))),
    ):
        settings = tiny(*sizes, "data.intensity=none", f"data.tumour_fraction={share}")
        seen = set()
        for images, masks in take(VolumeBatches([case], settings.data), 300, batch=2):
            for image, cut in zip(images, masks, strict=True):
                corner = np.unravel_index(int(image[0, 0, 0, 0]), numbers.shape)
                window = tuple(
                    slice(at, at + long) for at, long in zip(corner, (8, 8, 4), strict=True)
                )
                assert np.array_equal(image[0], numbers[window])
                assert np.array_equal(cut[0], mask[window] > 0)
                seen.add(tuple(int(at) for at in corner))
        assert seen == corners


def test_in_3d_volumes_without_a_structure_are_visited_too(cases, tiny, tmp_path):
    data = tiny(
        "data.spatial_dims=3", "data.size=[16,16,4]", "data.augment=false", "network.features=[4,8]"
    ).data
    empty = []
    for number, case in enumerate(cases[:3]):
        image = nibabel.load(case.image)
        marked = np.full(image.shape, 50 + number, np.int16)
        marked[::2] = 0
        names = [tmp_path / f"{part}-{number}.nii.gz" for part in ("image", "label")]
        nibabel.Nifti1Image(marked, image.affine).to_filename(names[0])
        nibabel.Nifti1Image(np.zeros(image.shape[:3], np.uint8), image.affine).to_filename(names[1])
        empty.append(dataclasses.replace(case, image=names[0], label=names[1]))
    visited = []
    cohort = VolumeBatches([*cases[3:], *empty], data)
    volumes = cohort.volumes
    cohort.volumes = Watched(volumes, visited)
    take(cohort, 20)
    assert set(visited) == set(range(len(volumes)))


class Watched:
    def __init__(self, volumes, visited):
        self.volumes, self._visited = volumes, visited

    def __getitem__(self, index):
        self._visited.append(index)
        return self.volumes[index]


def test_the_reading_of_the_volumes_can_be_stopped(cases, tiny):
    def stop(done, of):
        if done == 2:
            raise InterruptedError(f"{done} of {of}")

    with pytest.raises(InterruptedError, match=f"2 of {len(cases)}"):
        VolumeBatches(cases, tiny().data, progress=stop)
