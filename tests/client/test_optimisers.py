"""The optimisers take the steps of torch's, byte for byte."""

import pytest
import torch

from consortium.client.optimisers import build_optimiser
from consortium.models.networks import build_network
from consortium.protocol.codec import digest


def reference(parameters, plan):
    if plan.optimiser == "sgd":
        return torch.optim.SGD(parameters, lr=plan.learning_rate, weight_decay=plan.weight_decay)
    return torch.optim.AdamW(
        parameters, lr=plan.learning_rate, weight_decay=plan.weight_decay, fused=True
    )


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
@pytest.mark.parametrize("decay", [0.0, 0.03])
def test_the_bytes_are_those_of_torch(tiny, optimiser, decay):
    settings = tiny(f"training.optimiser={optimiser}", f"training.weight_decay={decay}")
    ours, theirs = (build_network(settings, seed=2) for _ in range(2))
    mine = build_optimiser(ours.parameters(), settings.training)
    other = reference(theirs.parameters(), settings.training)
    generator = torch.Generator().manual_seed(0)
    start = digest(ours.state_dict())
    for step in range(6):
        mine.learning_rate = other.param_groups[0]["lr"] = 0.01 / (1 + step)
        mine.zero_grad()
        other.zero_grad()
        pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
        for number, pair in enumerate(pairs):
            if number == 1 and step % 2:
                continue  # one that has no gradient in every other step
            gradient = torch.randn(pair[0].shape, generator=generator)
            for parameter in pair:
                parameter.grad = gradient.clone()
        mine.step()
        other.step()
    assert digest(ours.state_dict()) == digest(theirs.state_dict()) != start


def test_parameters_of_two_dtypes_take_a_step(tiny):
    plan = tiny().training
    double, single = torch.ones(3, dtype=torch.float64), torch.ones(3)
    optimiser = build_optimiser([double, single], plan)
    for parameter in (double, single):
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    assert (double < 1).all()
    assert (single < 1).all()
    optimiser.zero_grad()
    assert double.grad is single.grad is None
