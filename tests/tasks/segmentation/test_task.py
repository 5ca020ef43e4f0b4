"""The segmentation task at a hospital."""

import itertools

import numpy as np
import pytest
import torch
from tests.tiny_hospital import SHAPE

from consortium.core.site_policy import Site
from consortium.tasks.segmentation.task import SegmentationTask


@pytest.mark.parametrize(
    "dims", [["data.size=[8,8]"], ["data.spatial_dims=3", "data.size=[4,4,2]"]], ids=["2d", "3d"]
)
def test_the_patients_of_a_batch_are_those_whose_scans_are_in_it(hospital, tmp_path, tiny, dims):
    """Every voxel of a scan holds the scan's number; the first patient has two scans."""
    numbers = {}
    for number, entry in enumerate(hospital.content["training"], start=1):
        hospital.put(entry["image"], np.full((*SHAPE, 2), number, np.uint8))
        entry["patient"] = "P0" if number <= 2 else f"P{number}"
        numbers[number] = entry["patient"]
    hospital.save()
    channels = ('data.channels=["T1", "FLAIR"]', "data.augment=false", "data.intensity=none")
    settings = tiny(*channels, *dims, "data.validation_fraction=0")
    site = Site("north", hospital.folder, tmp_path / "state")
    work = SegmentationTask(site, settings, torch.device("cpu"), lambda done, of: None)
    assert work.patients == 7
    names = sorted(set(numbers.values()))
    seen = set()
    streams = work.batches(4, 7), work.patients_of_batches(4, 7)
    for (images, _), patients in itertools.islice(zip(*streams, strict=True), 30):
        for image, patient in zip(images, patients, strict=True):
            number = round(float(image.max()))
            seen.add(number)
            assert numbers[number] == names[patient]
    assert seen == set(numbers)
