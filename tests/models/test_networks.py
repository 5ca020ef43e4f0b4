import itertools
import json

import pytest
import torch
from tests.conftest import ROOT

from consortium.core.errors import UsageError
from consortium.models.networks import build_network, network_config, network_outline
from consortium.settings.base import Settings
from consortium.tasks.registry import parse_settings

BY_NAME = [*itertools.product(("unet", "segresnet", "dynunet"), ("batch", "group", "instance"))]


def settings(dims: int = 2, **network: object) -> Settings:
    return parse_settings(
        {
            "data": {
                "spatial_dims": dims,
                "channels": ["a", "b", "c"],
                "labels": {"x": [1], "y": [2]},
                "size": [16] * dims,
            },
            "network": {"features": [4, 8, 16], **network},
        }
    )


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("name", "normalisation"), BY_NAME)
def test_every_network_gives_one_logit_a_structure_and_learns(name, normalisation, dims):
    network = build_network(settings(dims, name=name, normalisation=normalisation))
    output = network(torch.randn(2, 3, *[16] * dims))
    assert output.shape == (2, 2, *[16] * dims)
    output.square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("name", ["unet", "segresnet", "dynunet"])
def test_the_last_layer_is_a_plain_convolution_that_starts_at_background(name):
    network = build_network(settings(name=name, normalisation="batch"))
    last_of_all = [layer for layer in network.modules() if not list(layer.children())][-1]
    assert isinstance(last_of_all, torch.nn.Conv2d)
    assert last_of_all.bias.tolist() == [-2, -2]


@pytest.mark.parametrize("name", ["unet", "segresnet", "dynunet"])
def test_the_state_names_every_tensor_once_and_every_parameter_by_its_name(name):
    network = build_network(settings(name=name))
    state = network.state_dict(keep_vars=True)
    assert len({id(tensor) for tensor in state.values()}) == len(state)
    assert dict(network.named_parameters()).keys() <= state.keys()


def test_the_same_seed_gives_the_same_weights_and_leaves_the_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second, other = (build_network(settings(), seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    same = [
        torch.equal(*pair) for pair in zip(first.parameters(), second.parameters(), strict=True)
    ]
    assert all(same)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_without_a_seed_the_jobs_seed_counts():
    job = settings().model_copy(update={"seed": 9})
    networks = build_network(job), build_network(job, 9)
    pairs = zip(*(network.parameters() for network in networks), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("name", ["unet", "segresnet", "dynunet"])
def test_the_configuration_is_json_and_names_only_monai_and_torch(name):
    config = json.loads(json.dumps(network_config(settings(name=name, dropout=0.1))))
    targets = [part["_target_"] for part in config.values() if isinstance(part, dict)]
    assert targets
    assert all(target.split(".")[0] in ("monai", "torch") for target in targets)


@pytest.mark.parametrize("features", [[6, 12, 24], [8, 20, 28], [5, 7, 9]])
@pytest.mark.parametrize("name", ["unet", "dynunet"])
def test_group_normalisation_fits_any_number_of_channels(name, features):
    network = build_network(settings(name=name, features=features, normalisation="group"))
    assert network(torch.randn(1, 3, 16, 16)).shape == (1, 2, 16, 16)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"name": "segresnet", "features": [8, 16, 24]}, "segresnet doubles its channels"),
        ({"name": "dynunet", "features": [8, 16]}, "dynunet needs 3 levels"),
        ({"features": [2, 4, 8, 16, 32, 64]}, "data.size: 16 is not a multiple of 32"),
    ],
)
def test_a_network_that_cannot_be_built_is_named(network, message):
    with pytest.raises(UsageError, match=message) as caught:
        build_network(settings(**network))
    assert caught.value.code == "bad-setting"


OUTLINED = [
    *(
        settings(dims, name=name, normalisation=normalisation)
        for dims in (2, 3)
        for name, normalisation in BY_NAME
    ),
    *(
        parse_settings(json.loads(path.read_text()))
        for path in (ROOT / "jobs").glob("*/app/config/settings.json")
    ),
    *(
        parse_settings(
            {
                "task": "classification",
                "data": {"classes": {"a": ["a"], "b": ["b"]}, "size": 64},
                "network": {"name": name},
            }
        )
        for name in ("small", "densenet121")
    ),
]


@pytest.mark.parametrize("job", OUTLINED, ids=lambda job: f"{job.task}-{job.network.name}")
def test_the_outline_of_a_network_is_its_state_without_the_values(job):
    outline, state = network_outline(job), build_network(job).state_dict()
    assert list(outline) == list(state)
    assert all(tensor.is_meta for tensor in outline.values())
    for name, tensor in state.items():
        assert (outline[name].shape, outline[name].dtype) == (tensor.shape, tensor.dtype)
