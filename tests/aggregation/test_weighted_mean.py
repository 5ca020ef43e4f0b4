import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from consortium.aggregation.weighted_mean import (
    MAX_INTEGER_CHANGE,
    MAX_TOTAL_CASES,
    WeightedMean,
)
from consortium.update import Entry, Rule, digest

LAYOUT = {
    "count": Entry(torch.int64, (), Rule.INTEGER),
    "kept": Entry(torch.float32, (2,), Rule.LOCAL),
    "weight": Entry(torch.float32, (3,), Rule.MEAN),
}
ELEMENT = st.floats(-(2.0**16), 2.0**16, width=32, allow_subnormal=True)
UPDATE = st.tuples(
    st.lists(ELEMENT, min_size=3, max_size=3),
    st.integers(-(2**20), 2**20),
    st.integers(1, 100_000),
)


def mean_of(updates):
    rule = WeightedMean(LAYOUT)
    for weight, count, cases in updates:
        tensors = {"weight": torch.tensor(weight), "count": torch.tensor(count)}
        assert rule.fits(tensors, cases) is None
        rule.add(tensors, cases)
    return rule.mean()


def reference(updates, element):
    total = sum(np.longdouble(cases) for _, _, cases in updates)
    return sum(np.longdouble(w[element]) * cases for w, _, cases in updates) / total


@given(st.lists(UPDATE, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_the_bytes_do_not_depend_on_the_order_of_arrival(updates, random):
    shuffled = list(updates)
    random.shuffle(shuffled)
    assert digest(mean_of(updates)) == digest(mean_of(shuffled))


@given(st.lists(UPDATE, min_size=1, max_size=8))
def test_the_mean_is_exact_to_the_grid_and_the_rounding_to_float32(updates):
    mean = mean_of(updates)["weight"].numpy()
    for element in range(3):
        true = reference(updates, element)
        ulp = np.spacing(np.abs(np.float32(true)))
        assert abs(np.longdouble(mean[element]) - true) <= np.longdouble(ulp) + 2.0**-55


@given(st.lists(UPDATE, min_size=1, max_size=8))
def test_integers_are_averaged_and_rounded_half_up(updates):
    total = sum(cases for _, _, cases in updates)
    weighted = sum(count * cases for _, count, cases in updates)
    assert int(mean_of(updates)["count"]) == (2 * weighted + total) // (2 * total)


def test_a_thousand_hospitals_of_a_hundred_thousand_cases_at_the_bound_do_not_overflow():
    rule = WeightedMean({"w": Entry(torch.float32, (2,), Rule.MEAN)})
    tensors = {"w": torch.tensor([2.0**16, -(2.0**16)])}
    for _ in range(1000):
        assert rule.fits(tensors, 100_000) is None
        rule.add(tensors, 100_000)
    assert rule.mean()["w"].tolist() == [2.0**16, -(2.0**16)]


def test_what_is_beyond_the_range_is_named_before_anything_is_added():
    rule = WeightedMean(LAYOUT)
    weight = torch.zeros(3)
    beyond = torch.tensor(MAX_INTEGER_CHANGE + 1)
    assert rule.fits({"weight": weight, "count": beyond}, 1) == "count"
    assert rule.fits({"weight": weight, "count": -beyond}, 1) == "count"
    assert rule.fits({"weight": weight, "count": torch.tensor(0)}, MAX_TOTAL_CASES + 1) == ""


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_of_the_model_is_kept_and_the_sum_does_not_lose_small_parts(dtype):
    rule = WeightedMean({"w": Entry(dtype, (1,), Rule.MEAN)})
    for _ in range(64):
        rule.add({"w": torch.ones(1, dtype=dtype)}, 1000)
    mean = rule.mean()["w"]
    assert (mean.dtype, mean.item()) == (dtype, 1.0)


def test_the_state_is_kept_between_rounds_and_forgets_the_updates():
    rule = WeightedMean(LAYOUT)
    ones = {"weight": torch.ones(3), "count": torch.tensor(2)}
    rule.add(ones, 5)
    rule.reset()
    with pytest.raises(ZeroDivisionError):
        rule.mean()
    rule.add({name: -tensor for name, tensor in ones.items()}, 3)
    assert rule.mean()["weight"].tolist() == [-1, -1, -1]


def test_tensors_beyond_a_block_and_of_any_shape_come_out_in_place():
    values = torch.randn(3, 40_000)
    rule = WeightedMean({"w": Entry(torch.float32, (3, 40_000), Rule.MEAN)})
    rule.add({"w": values}, 3)
    rule.add({"w": values}, 4)
    assert torch.equal(rule.mean()["w"], values)
