import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from consortium.aggregation.exact_sum import find_compiled
from consortium.aggregation.rule import BLOCK, InvalidUpdate
from consortium.aggregation.weighted_mean import (
    MAX_INTEGER_CHANGE,
    MAX_TOTAL_CASES,
    WeightedMean,
)
from consortium.protocol.codec import digest
from consortium.protocol.schema import Reduction, TensorSpec

LAYOUT = {
    "count": TensorSpec(torch.int64, (), Reduction.INTEGER),
    "kept": TensorSpec(torch.float32, (2,), Reduction.LOCAL),
    "weight": TensorSpec(torch.float32, (3,), Reduction.MEAN),
}
ELEMENT = st.floats(-(2.0**16), 2.0**16, width=32, allow_subnormal=True)
UPDATE = st.tuples(
    st.lists(ELEMENT, min_size=3, max_size=3),
    st.integers(-(2**20), 2**20),
    st.integers(1, 100_000),
)
ONE = {"w": TensorSpec(torch.float32, (2,), Reduction.MEAN)}
WAYS = [{"compiled": False}, {"compiled": True}, {"compiled": False, "threads": 2}]


def tensors_of(update):
    weight, count, _ = update
    return {"weight": torch.tensor(weight), "count": torch.tensor(count)}


def mean_of(updates, **options):
    rule = WeightedMean(LAYOUT, **options)
    for update in updates:
        rule.add("h", tensors_of(update), update[2])
    return rule.aggregate().change


def reference(updates, element):
    total = sum(np.longdouble(cases) for _, _, cases in updates)
    return sum(np.longdouble(w[element]) * cases for w, _, cases in updates) / total


def test_numba_is_installed_so_that_both_versions_are_tested():
    assert find_compiled() is not None


@given(st.lists(UPDATE, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_the_bytes_depend_neither_on_the_order_of_arrival_nor_on_how_it_is_computed(
    updates, random
):
    digests = set()
    for options in WAYS:
        digests.add(digest(mean_of(updates, **options)))
        random.shuffle(updates)
    assert len(digests) == 1


@pytest.mark.parametrize("options", WAYS)
@given(st.lists(UPDATE, min_size=1, max_size=8), st.lists(UPDATE, min_size=1, max_size=4))
def test_a_removed_update_leaves_no_trace(options, updates, others):
    rule = WeightedMean(LAYOUT, **options)
    for update in [*others, *updates]:
        rule.add("h", tensors_of(update), update[2])
    for update in others:
        rule.remove(tensors_of(update), update[2])
    assert digest(rule.aggregate().change) == digest(mean_of(updates))


@given(st.lists(UPDATE, min_size=1, max_size=8))
def test_the_mean_is_exact_to_the_grid_and_the_rounding_to_float32(updates):
    mean = mean_of(updates)["weight"].numpy()
    total = sum(cases for _, _, cases in updates)
    for element in range(3):
        true = reference(updates, element)
        ulp = np.spacing(np.abs(np.float32(true)))
        grid = len(updates) * 2.0**-55 / total
        assert abs(np.longdouble(mean[element]) - true) <= np.longdouble(ulp) + grid


def test_means_of_training_updates_are_within_one_unit_of_the_last_place():
    rng = np.random.default_rng(0)
    updates = [
        (torch.from_numpy(rng.standard_normal(200_000).astype(np.float32) * 1e-3), cases)
        for cases in (1, 7, 150, 3000)
    ]
    rule = WeightedMean({"w": TensorSpec(torch.float32, (200_000,), Reduction.MEAN)})
    for values, cases in updates:
        rule.add("h", {"w": values}, cases)
    mean = rule.aggregate().change["w"].numpy()
    true = sum(v.numpy().astype(np.longdouble) * n for v, n in updates) / np.longdouble(3158)
    assert (np.abs(mean - true) <= np.spacing(np.abs(true).astype(np.float32))).all()


@given(st.lists(UPDATE, min_size=1, max_size=8))
def test_integers_are_averaged_and_rounded_half_up(updates):
    total = sum(cases for _, _, cases in updates)
    weighted = sum(count * cases for _, count, cases in updates)
    assert int(mean_of(updates)["count"]) == (2 * weighted + total) // (2 * total)


@pytest.mark.parametrize("options", WAYS)
def test_a_thousand_hospitals_of_a_hundred_thousand_cases_at_the_bound_do_not_overflow(options):
    rule = WeightedMean(ONE, **options)
    tensors = {"w": torch.tensor([2.0**16, -(2.0**16)])}
    for _ in range(1000):
        rule.add("h", tensors, 100_000)
    assert rule.aggregate().change["w"].tolist() == [2.0**16, -(2.0**16)]


@pytest.mark.parametrize("options", WAYS)
def test_sums_that_leave_one_word_are_as_exact_as_others(options):
    rule = WeightedMean(ONE, **options)
    for value in (60_000.0, -60_000.0, 2.0**-30):
        for _ in range(40):
            rule.add("h", {"w": torch.tensor([value, -value])}, 50_000)
    third = float(np.float32(2.0**-30 / 3))
    assert rule.aggregate().change["w"].tolist() == [third, -third]


@pytest.mark.parametrize("options", WAYS)
@pytest.mark.parametrize(
    ("value", "code"),
    [
        (torch.nan, "not-finite"),
        (-torch.inf, "not-finite"),
        (9.0, "too-large"),
        (3e38, "too-large"),
    ],
)
def test_an_update_with_a_bad_element_anywhere_is_not_added_at_all(options, value, code):
    schema = {
        "first": TensorSpec(torch.float32, (2 * BLOCK + 5,), Reduction.MEAN),
        "second": TensorSpec(torch.float32, (3 * BLOCK,), Reduction.MEAN),
    }
    good = {name: torch.rand(spec.shape) for name, spec in schema.items()}
    bad = {name: torch.rand(spec.shape) for name, spec in schema.items()}
    bad["second"][2 * BLOCK + 1] = value
    rule = WeightedMean(schema, max_change=8.5, **options)
    rule.add("a", good, 5)
    with pytest.raises(InvalidUpdate) as refusal:
        rule.add("b", bad, 3)
    assert (refusal.value.code, refusal.value.tensor) == (code, "second")
    assert rule.total_cases == 5
    change = rule.aggregate().change
    assert all(torch.equal(change[name], good[name]) for name in schema)


@pytest.mark.parametrize("options", WAYS)
def test_the_bound_itself_is_allowed(options):
    rule = WeightedMean(ONE, max_change=8.5, **options)
    rule.add("a", {"w": torch.tensor([8.5, -8.5])}, 1)
    assert rule.aggregate().change["w"].tolist() == [8.5, -8.5]


def test_an_update_beyond_the_range_is_refused_with_its_tensor():
    rule = WeightedMean(LAYOUT)
    weight = torch.ones(3)
    for beyond in (MAX_INTEGER_CHANGE + 1, -MAX_INTEGER_CHANGE - 1):
        with pytest.raises(InvalidUpdate) as refusal:
            rule.add("h", {"weight": weight, "count": torch.tensor(beyond)}, 1)
        assert (refusal.value.code, refusal.value.tensor) == ("out-of-range", "count")
    with pytest.raises(InvalidUpdate) as refusal:
        rule.add("h", {"weight": weight, "count": torch.tensor(0)}, MAX_TOTAL_CASES)
    assert (refusal.value.code, refusal.value.tensor) == ("out-of-range", "")
    with pytest.raises(ZeroDivisionError):
        rule.aggregate()


@pytest.mark.parametrize("options", WAYS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_of_the_model_is_kept_and_the_sum_does_not_lose_small_parts(dtype, options):
    rule = WeightedMean({"w": TensorSpec(dtype, (1,), Reduction.MEAN)}, **options)
    for _ in range(64):
        rule.add("h", {"w": torch.ones(1, dtype=dtype)}, 1000)
    mean = rule.aggregate().change["w"]
    assert (mean.dtype, mean.item()) == (dtype, 1.0)


def test_memory_is_kept_between_rounds_and_updates_are_discarded():
    rule = WeightedMean(LAYOUT)
    huge = {"weight": torch.full((3,), 6e4), "count": torch.tensor(2)}
    rule.add("h", huge, 100_000)
    rule.reset()
    with pytest.raises(ZeroDivisionError):
        rule.aggregate()
    rule.add("h", {name: -torch.ones_like(tensor) for name, tensor in huge.items()}, 3)
    assert rule.aggregate().change["weight"].tolist() == [-1, -1, -1]


@pytest.mark.parametrize("options", WAYS)
def test_tensors_beyond_a_block_and_of_any_shape_come_out_in_place(options):
    values = torch.randn(3, 40_000)
    schema = {
        "empty": TensorSpec(torch.float32, (0, 2), Reduction.MEAN),
        "w": TensorSpec(torch.float32, (3, 40_000), Reduction.MEAN),
    }
    rule = WeightedMean(schema, **options)
    rule.add("a", {"w": values, "empty": torch.empty(0, 2)}, 3)
    rule.add("b", {"w": values, "empty": torch.empty(0, 2)}, 4)
    change = rule.aggregate().change
    assert torch.equal(change["w"], values)
    assert change["empty"].shape == (0, 2)


def test_a_schema_of_counters_alone_is_averaged():
    rule = WeightedMean({"count": TensorSpec(torch.int64, (), Reduction.INTEGER)})
    rule.add("a", {"count": torch.tensor(3)}, 1)
    assert int(rule.aggregate().change["count"]) == 3
