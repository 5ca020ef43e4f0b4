import itertools
import json
import re

import pytest
import torch
from safetensors.torch import save_file
from tests.tasks.classification.building import build, settings

from consortium.core.errors import Refused, UsageError
from consortium.models.bundle import load_state
from consortium.tasks.classification.networks import (
    network_config,
    pooled_features,
    take_pretrained,
)

NETWORKS = [*itertools.product(("small", "densenet121"), ("batch", "group", "instance"))]


@pytest.mark.parametrize(("name", "normalisation"), NETWORKS)
def test_every_network_gives_one_logit_a_class_and_learns(name, normalisation):
    network = build(settings(name=name, normalisation=normalisation))
    logits = network(torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (2, 3)
    logits.square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    statistics = any("running_mean" in name for name in network.state_dict())
    assert statistics == (normalisation == "batch")


@pytest.mark.parametrize("name", ["small", "densenet121"])
def test_the_configuration_is_json_and_of_monai_and_torch_alone(name):
    config = network_config(settings(name=name, dropout=0.1))
    targets = re.findall(r'"_target_": "(\w+)', json.dumps(config))
    assert set(targets) <= {"monai", "torch"}
    assert all(key.startswith("network_") for key in config)


def test_small_has_two_convolutions_a_level_and_halves_at_each():
    network = build(settings(features=[8, 16]))
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, m.stride[0]) for m in convolutions] == [
        (1, 8, 2),
        (8, 8, 1),
        (8, 16, 2),
        (16, 16, 1),
    ]


@pytest.mark.parametrize("name", ["small", "densenet121"])
def test_dropout_follows_the_settings(name):
    layers = [*build(settings(name=name, dropout=0.25)).modules()]
    rates = [layer.p for layer in layers if isinstance(layer, torch.nn.modules.dropout._DropoutNd)]
    assert rates == [0.25] * (1 if name == "small" else 58)


@pytest.mark.parametrize(
    ("size", "network", "least"),
    [
        (32, {"features": [8] * 5}, "set data.size to 64 or more, or take fewer levels"),
        (63, {"name": "densenet121"}, "set data.size to 64 or more"),
    ],
)
def test_radiographs_too_small_for_the_levels_are_refused(size, network, least):
    with pytest.raises(UsageError, match=f"bad-setting: .*data.size.*{least}"):
        network_config(settings(size, **network))
    least_size = settings(64, normalisation="instance", **network)
    assert build(least_size)(torch.randn(1, 1, 64, 64)).isfinite().all()


@pytest.mark.parametrize(("name", "width"), [("small", 32), ("densenet121", 1024)])
def test_the_features_are_what_the_last_layer_sees(name, width):
    network = build(settings(name=name)).eval()
    radiographs = torch.randn(3, 1, 64, 64)
    with pooled_features(network) as collected:
        logits = [network(radiographs), network(radiographs[:2])]
    network(radiographs)
    assert [features.shape for features in collected] == [(3, width), (2, width)]
    last = [layer for layer in network.modules() if isinstance(layer, torch.nn.Linear)][-1]
    for features, given in zip(collected, logits, strict=True):
        assert not features.requires_grad
        assert torch.equal(last(features), given)


def test_the_features_are_not_collected_after_a_failure():
    network = build(settings())

    def fail() -> None:
        with pooled_features(network) as collected:
            network(torch.randn(2, 1, 64, 64))
            seen.append(collected)
            raise RuntimeError("stop")

    seen: list[list[torch.Tensor]] = []
    with pytest.raises(RuntimeError, match="stop"):
        fail()
    network(torch.randn(2, 1, 64, 64))
    assert len(seen[0]) == 1


def torchvisions(state: dict, old: bool) -> dict:
    """Torchvision's names and its 1000 classes of colour photographs."""
    dot = "." if old else ""
    renamed = {}
    for name, tensor in state.items():
        other = re.sub(r"\.layers\.(norm|conv)([12])", rf".\1{dot}\2", name)
        renamed[other.replace("class_layers.out", "classifier")] = tensor.clone()
    first = renamed["features.conv0.weight"]
    renamed["features.conv0.weight"] = torch.cat([0.5 * first, 0.3 * first, 0.2 * first], 1)
    renamed["classifier.weight"], renamed["classifier.bias"] = (
        torch.ones(1000, 1024),
        torch.ones(1000),
    )
    if old:
        return {n: tensor for n, tensor in renamed.items() if "num_batches_tracked" not in n}
    return renamed


@pytest.mark.parametrize("old", [False, True])
def test_torchvisions_weights_are_taken_but_for_its_last_layer(tmp_path, old):
    job = settings(name="densenet121")
    theirs, fresh = build(job, 1).state_dict(), build(job, 2).state_dict()
    pretrained = torchvisions(theirs, old)
    assert "features.denseblock2.denselayer12.norm" + ("." if old else "") + "2.bias" in pretrained
    save_file(pretrained, tmp_path / "densenet.safetensors")
    taken = load_state(tmp_path / "densenet.safetensors", fresh, take_pretrained)
    assert list(taken) == list(fresh)
    for name, tensor in taken.items():
        expected = fresh if name.startswith("class_layers") else theirs
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6, msg=name)
    build(job).load_state_dict(taken)


@pytest.mark.parametrize("name", ["small", "densenet121"])
def test_our_own_weights_are_taken_with_a_last_layer_of_as_many_classes(tmp_path, name):
    two, three = (build(settings(name=name, classes=count), 1).state_dict() for count in (2, 3))
    fresh = build(settings(name=name), 2).state_dict()
    for state in (two, three):
        save_file(state, tmp_path / "start.safetensors")
        taken = load_state(tmp_path / "start.safetensors", fresh, take_pretrained)
        last = [*fresh][-2:]
        for key, tensor in taken.items():
            expected = fresh if key in last and state is two else state
            assert torch.equal(tensor, expected[key]), key


def test_weights_of_another_network_are_refused_by_the_tensor_that_differs(tmp_path):
    fresh = build(settings()).state_dict()
    path = tmp_path / "start.safetensors"

    def refusal(state: dict) -> str:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
        with pytest.raises(Refused) as caught:
            load_state(path, fresh, take_pretrained)
        assert caught.value.code == "wrong-architecture"
        return caught.value.what

    conv, weight, bias = "1.0.conv.weight", *[*fresh][-2:]
    without = {name: tensor for name, tensor in fresh.items() if name != conv}
    assert refusal(without) == f"tensor {conv} is missing"
    assert "not in the network" in refusal(fresh | {"9.weight": torch.ones(1)})
    assert "has shape" in refusal(fresh | {conv: fresh[conv][:, :4]})
    assert "has shape" in refusal(fresh | {weight: fresh[weight][:, :16]})
    assert "is missing" in refusal({name: fresh[name] for name in fresh if name != bias})
    first = fresh["0.0.conv.weight"]
    assert "has shape" in refusal(fresh | {"0.0.conv.weight": first.expand(-1, 2, -1, -1)})
    assert "NaN or infinity" in refusal(fresh | {conv: fresh[conv] * torch.nan})
    dense = build(settings(name="densenet121")).state_dict()
    assert "is missing" in refusal(dense)


def test_weights_that_need_batch_normalisation_say_so(tmp_path):
    path = tmp_path / "start.safetensors"
    save_file(build(settings(normalisation="batch")).state_dict(), path)
    fresh = build(settings(normalisation="instance")).state_dict()
    with pytest.raises(Refused, match=r'set network\.normalisation to "batch"'):
        load_state(path, fresh, take_pretrained)
