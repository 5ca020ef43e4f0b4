import io

import numpy as np
import pytest
import torch
from PIL import Image
from tests.tasks.classification.building import build, settings

from consortium.tasks.classification.attention import MINIMUM_SIDE, attention, draw_attention


@pytest.fixture(autouse=True)
def _as_in_training():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def radiograph(size: int = 64) -> torch.Tensor:
    """Grey, with a bright patch in the upper left corner and a dark one in the lower right."""
    values = torch.zeros(1, size, size)
    values[:, 4:14, 4:14], values[:, -14:-4, -14:-4] = 1, -1
    return values


def corner_network() -> torch.nn.Module:
    """A network whose class 0 depends on bright areas, class 1 on dark ones, class 2 on none."""
    network = build(settings(features=[8, 8])).eval()
    with torch.no_grad():
        first, *others = (m for m in network.modules() if isinstance(m, torch.nn.Conv2d))
        for layer in (first, *others):
            layer.weight.zero_()
        first.weight[:2, 0, 1, 1] = torch.tensor([1.0, -1.0])
        for layer in others:
            layer.weight[0, 0, 1, 1] = layer.weight[1, 1, 1, 1] = 1
        last = [m for m in network.modules() if isinstance(m, torch.nn.Linear)][-1]
        last.weight.zero_()
        last.weight[0, 0] = last.weight[1, 1] = 1
    return network


def picture(network: torch.nn.Module, seen: torch.Tensor, number: int) -> np.ndarray:
    """The X-ray and the overlay, in RGB."""
    image = Image.open(io.BytesIO(draw_attention(network, seen, number)))
    assert (image.format, image.mode) == ("PNG", "RGB")
    return np.stack(np.split(np.asarray(image, float), 2, axis=1))


def test_it_is_warm_where_the_network_looks_and_nowhere_else():
    network = corner_network()
    for number, corner, other in ((0, slice(0, 16), slice(48, 64)), (1, slice(48, 64), slice(16))):
        warmth = attention(network, radiograph(), number)
        assert warmth.shape == (64, 64)
        assert (warmth.min(), warmth.max()) == (0, 1)
        assert warmth[corner, corner].mean() > 0.2
        assert warmth.mean() < 0.05
        assert warmth[other, other].max() == 0
        assert warmth[:16, 48:].max() == 0
    assert attention(network, radiograph(), 2).max() == 0


def test_the_picture_has_the_radiograph_on_the_left_and_the_overlay_on_the_right():
    plain, overlay = picture(corner_network(), radiograph(), 0)
    assert plain.shape == (256, 256, 3)
    assert plain.shape[0] >= MINIMUM_SIDE
    assert (plain[..., 0] == plain[..., 1]).all()
    assert (plain[..., 0] == plain[..., 2]).all()
    assert (plain[36, 36, 0], plain[128, 128, 0], plain[-36, -36, 0]) == (255, 128, 0)
    red = overlay[..., 0] - overlay[..., 2]
    assert red[28:44, 28:44].min() > 50
    assert red[80:].max() == red[:, 80:].max() == 0
    np.testing.assert_array_equal(overlay[80:], plain[80:])
    cold = picture(corner_network(), radiograph(), 2)
    np.testing.assert_array_equal(cold[0], cold[1])


@pytest.mark.parametrize(("size", "side"), [(32, 224), (100, 300), (224, 224), (300, 300)])
def test_a_pixel_is_drawn_as_a_square_of_whole_pixels(size, side):
    drawn = picture(corner_network(), radiograph(size), 0)
    assert drawn.shape == (2, side, side, 3)


def test_a_radiograph_of_one_grey_is_drawn_too():
    assert picture(corner_network(), torch.zeros(1, 64, 64), 0).max() == 0


@pytest.mark.parametrize("normalisation", ["batch", "group", "instance"])
@pytest.mark.parametrize("name", ["small", "densenet121"])
def test_the_network_stays_as_it_was_and_the_picture_is_the_same_again(name, normalisation):
    network = build(settings(name=name, normalisation=normalisation)).train()
    frozen = next(network.parameters()).requires_grad_(False)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    inplace = [getattr(layer, "inplace", None) for layer in network.modules()]
    seen = torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first = draw_attention(network, seen, 1)
    assert draw_attention(network, seen, 1) == first
    assert all(layer.training for layer in network.modules())
    assert [getattr(layer, "inplace", None) for layer in network.modules()] == inplace
    assert not any(
        layer._forward_hooks or layer._backward_hooks or layer._forward_pre_hooks
        for layer in network.modules()
    )
    assert all(parameter.grad is None for parameter in network.parameters())
    assert [parameter.requires_grad for parameter in network.parameters()].count(False) == 1
    assert not frozen.requires_grad
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[key]), key
