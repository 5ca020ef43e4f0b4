import pytest
import torch

from consortium.aggregation.server_momentum import ServerMomentum


def change(value, dtype=torch.float32):
    return {"weight": torch.tensor([value], dtype=dtype), "mean": torch.tensor([value])}


def test_without_momentum_the_mean_change_is_added_to_the_bit():
    plain = ServerMomentum(0.0, 1.0, ["weight"])
    given = change(0.1)
    assert torch.equal(plain.step(given)["weight"], given["weight"])
    assert (plain.velocity, plain.keeps) == ({}, False)


def test_steps_are_those_of_nesterovs_method():
    server = ServerMomentum(0.5, 2.0, ["weight"])
    first, second = server.step(change(1.0)), server.step(change(3.0))
    # v = 1, then 0.5 + 3; the step is 2 (d + 0.5 v).
    assert float(first["weight"]) == 2 * (1 + 0.5)
    assert float(second["weight"]) == 2 * (3 + 0.5 * 3.5)


def test_it_minimises_a_quadratic_faster_than_plain_steps():
    def distance(server):
        x = torch.tensor([1.0])
        for _ in range(20):
            x = x + server.step({"weight": -0.05 * x})["weight"]
        return float(x.abs())

    with_momentum = distance(ServerMomentum(0.5, 1.0, ["weight"]))
    assert with_momentum < 0.5 * distance(ServerMomentum(0.0, 1.0, ["weight"]))


def test_buffers_follow_the_mean():
    server = ServerMomentum(0.9, 3.0, ["weight"])
    server.step(change(1.0))
    assert float(server.step(change(2.0))["mean"]) == 2.0


def test_it_goes_on_from_its_velocity_to_the_same_bits():
    whole = ServerMomentum(0.7, 1.0, ["weight"])
    steps = [whole.step(change(value))["weight"] for value in (0.1, 0.2, 0.3)]
    broken_off = ServerMomentum(0.7, 1.0, ["weight"])
    broken_off.step(change(0.1))
    resumed = ServerMomentum(0.7, 1.0, ["weight"], broken_off.velocity)
    assert torch.equal(resumed.step(change(0.2))["weight"], steps[1])
    assert torch.equal(resumed.step(change(0.3))["weight"], steps[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_step_has_the_dtype_of_the_change(dtype):
    server = ServerMomentum(0.5, 1.0, ["weight"])
    assert server.step(change(1.0, dtype))["weight"].dtype == dtype
