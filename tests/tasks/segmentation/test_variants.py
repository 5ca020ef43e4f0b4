"""The job's other settings files, made small, in a run and in prediction."""

from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import JOB

from consortium.models.bundle import write_bundle
from consortium.models.networks import build_network
from consortium.runs.in_process import InProcessRun
from consortium.synthetic.dataset import generate
from consortium.synthetic.hospitals import HOSPITALS
from consortium.tasks.registry import load_settings
from consortium.tasks.segmentation.datalist import read_datalist
from consortium.tasks.segmentation.inference import load_case, predict_case

SMALL = [
    "rounds=2",
    "data.size=[16,16,8]",
    "network.features=[4,8]",
    "training.local_steps=3",
]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def brains(tmp_path_factory):
    folder = tmp_path_factory.mktemp("brats") / "hospitals"
    few = [replace(hospital, patients=3, held_out=2) for hospital in HOSPITALS[:2]]
    generate(folder, few, seed=2, spatial_dims=3, in_plane=28, slices=20, like="brats")
    return folder


@pytest.fixture(scope="module")
def finished(brains, tmp_path_factory):
    workspace = tmp_path_factory.mktemp("run") / "workspace"
    file = JOB / "variants" / "brats.json"
    result = InProcessRun(
        job=JOB,
        data=brains,
        workspace=workspace,
        settings=file,
        assignments=SMALL,
        smallest_group=1,
        smallest_training=1,
        workers=1,
        render=False,
    ).run()
    return result, workspace


def test_four_channels_and_overlapping_regions_are_learned_from_patches(finished):
    result, workspace = finished
    assert (result["complete"], result["reason"]) == (True, "")
    for row in result["hospitals"]:
        assert list(row["federated"]["figures"]) == [
            "whole tumour",
            "tumour core",
            "enhancing tumour",
        ]
    submitted = workspace / "job" / JOB.name
    assert load_settings(submitted / "app" / "config" / "settings.json").data.size == [16, 16, 8]
    assert not (submitted / "variants").exists()


def test_a_predicted_mask_has_each_region_over_the_one_it_is_part_of(
    finished, brains, tmp_path, consortium
):
    _, workspace = finished
    settings = load_settings(workspace / "job" / JOB.name / "app" / "config" / "settings.json")
    case = read_datalist(brains / "north").cases[0]
    prepared = load_case(settings, case.image, case.label)
    network = build_network(settings)
    state = load_file(workspace / "model" / "models" / "model.safetensors")
    network.load_state_dict(state)
    network.eval()
    head = [name for name in state if name.endswith("bias")][-1]
    # So few steps outline nothing yet: the last layer's bias is moved until all regions are there.
    with torch.no_grad():
        logits = network(prepared.image.as_tensor()[None])[0].flatten(1)
    wanted = zip(logits, (0.7, 0.8, 0.9), strict=True)
    state[head] = state[head] - torch.stack([torch.quantile(x, share) for x, share in wanted])
    write_bundle(tmp_path / "model", settings, state, trained={})

    mask = tmp_path / "mask.nii.gz"
    assert consortium("predict", tmp_path / "model", case.image, "-o", mask)[0] == 0
    painted, scan = nibabel.load(mask), nibabel.load(case.image)
    assert painted.shape == scan.shape[:3]
    np.testing.assert_allclose(painted.affine, scan.affine)
    network.load_state_dict(state)
    whole, core, enhancing = predict_case(network, prepared, settings, CPU).numpy().astype(bool)
    assert (whole & core).any()
    assert (core & enhancing).any()
    expected = np.where(enhancing, 3, np.where(core, 2, np.where(whole, 1, 0)))
    assert set(np.unique(expected)) == {0, 1, 2, 3}
    np.testing.assert_array_equal(np.asarray(painted.dataobj), expected)
    scores = tmp_path / "scores.json"
    arguments = ("evaluate", tmp_path / "model", "--data", brains / "north", "--json", scores)
    assert consortium(*arguments)[0] == 0
