import pytest
import torch

from consortium.aggregation.adaptive_server import AdaptiveServer
from consortium.aggregation.server_momentum import ServerMomentum


def change(value, dtype=torch.float32):
    return {"weight": torch.tensor([value], dtype=dtype), "mean": torch.tensor([value])}


def test_without_momentum_the_step_is_exactly_the_mean_change():
    plain = ServerMomentum(0.0, 1.0, ["weight"])
    given = change(0.1)
    assert torch.equal(plain.step(given)["weight"], given["weight"])
    assert (plain.state, plain.has_state) == ({}, False)


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


def test_it_resumes_from_its_velocity_with_the_same_bits():
    whole = ServerMomentum(0.7, 1.0, ["weight"])
    steps = [whole.step(change(value))["weight"] for value in (0.1, 0.2, 0.3)]
    broken_off = ServerMomentum(0.7, 1.0, ["weight"])
    broken_off.step(change(0.1))
    resumed = ServerMomentum(0.7, 1.0, ["weight"], broken_off.state)
    assert torch.equal(resumed.step(change(0.2))["weight"], steps[1])
    assert torch.equal(resumed.step(change(0.3))["weight"], steps[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_step_has_the_dtype_of_the_change(dtype):
    server = ServerMomentum(0.5, 1.0, ["weight"])
    assert server.step(change(1.0, dtype))["weight"].dtype == dtype


def adaptive(method, state=None):
    return AdaptiveServer(
        method,
        momentum=0.9,
        learning_rate=0.5,
        beta2=0.99,
        tau=1e-3,
        trainable=["weight"],
        state=state,
    )


@pytest.mark.parametrize("method", ["adagrad", "adam", "yogi"])
def test_adaptive_steps_are_those_of_the_paper(method):
    server, m, v = adaptive(method), 0.0, 1e-6
    for d in (0.1, -0.3, 0.02):
        m = 0.9 * m + 0.1 * d
        v = {
            "adagrad": v + d * d,
            "adam": 0.99 * v + 0.01 * d * d,
            "yogi": v - 0.01 * d * d * (1 if v > d * d else -1),
        }[method]
        step = server.step(change(d, torch.float64))
        assert float(step["weight"]) == pytest.approx(0.5 * m / (v**0.5 + 1e-3), rel=1e-12)
        assert float(step["mean"]) == pytest.approx(d)


@pytest.mark.parametrize("method", ["adagrad", "adam", "yogi"])
def test_an_adaptive_server_resumes_from_its_state_with_the_same_bits(method):
    whole = adaptive(method)
    steps = [whole.step(change(value))["weight"] for value in (0.1, 0.2, 0.3)]
    broken_off = adaptive(method)
    broken_off.step(change(0.1))
    assert broken_off.state.keys() == broken_off.blank(change(0.0)).keys()
    resumed = adaptive(method, broken_off.state)
    assert torch.equal(resumed.step(change(0.2))["weight"], steps[1])
    assert torch.equal(resumed.step(change(0.3))["weight"], steps[2])


@pytest.mark.parametrize("method", ["adagrad", "adam", "yogi"])
def test_an_adaptive_step_does_not_depend_on_the_scale_of_a_coordinate(method):
    small, large = adaptive(method), adaptive(method)
    for value in (10.0, -20.0, 15.0):
        step, scaled = small.step(change(value)), large.step(change(1000 * value))
    assert float(step["weight"]) == pytest.approx(float(scaled["weight"]), rel=1e-3)
