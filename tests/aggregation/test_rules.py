"""Every rule that sees all updates at once, against a slow and obvious reference in float64."""

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from consortium.aggregation import RULES, exact_sum
from consortium.aggregation.distances import squared_distances
from consortium.aggregation.rule import InvalidUpdate, cap_shares, weighted_median
from consortium.aggregation.sorting import network
from consortium.protocol.codec import digest
from consortium.protocol.schema import Reduction, TensorSpec

COLLECTED = sorted(RULES.keys() - {"weighted_mean"})
SIZE = 5
SCHEMA = {"w": TensorSpec(torch.float32, (SIZE,), Reduction.MEAN)}
NUMBERS = st.floats(-1000, 1000, width=32)
UPDATES = st.lists(
    st.tuples(st.lists(NUMBERS, min_size=SIZE, max_size=SIZE), st.integers(1, 1000)),
    min_size=1,
    max_size=9,
)
TRIM = 0.2


def aggregate(name, updates, schema=SCHEMA, **options):
    rule = RULES[name](schema, **options)
    for number, (values, cases) in enumerate(updates):
        rule.add(f"h{number:03d}", {"w": torch.tensor(values, dtype=schema["w"].dtype)}, cases)
    return rule.aggregate()


def values_of(name, updates, **options):
    return aggregate(name, updates, **options).change["w"].double().numpy()


def as_arrays(updates):
    return np.array([values for values, _ in updates], np.float64), [cases for _, cases in updates]


def median(values, cases):
    """The median of one coordinate, with every hospital repeated as often as it has cases."""
    return np.median(np.repeat(values, cases))


def trimmed(values, cases, trim=TRIM):
    order = np.argsort(values)
    total, cut = Fraction(sum(cases)), Fraction(trim) * sum(cases)
    left, reached = Fraction(0), Fraction(0)
    for index in order:
        low, reached = reached, reached + cases[index]
        part = max(min(reached, total - cut), cut) - max(min(low, total - cut), cut)
        left += part * Fraction(float(values[index]))
    return float(left / (total - 2 * cut))


def clipped(arrays, cases, clip):
    norms = np.linalg.norm(arrays, axis=1)
    bound = clip * median(norms, cases)
    factors = np.array([min(1, bound / norm) if norm else 1 for norm in norms])
    return (arrays.T * factors) @ cases / sum(cases)


def krum(arrays, cases, attackers=1):
    count = len(arrays)
    if count < 2 * attackers + 3:
        return np.average(arrays, axis=0, weights=cases)
    scores = []
    for index in range(count):
        apart = sorted(
            np.sum((arrays[index] - arrays[other]) ** 2) for other in range(count) if other != index
        )
        scores.append(sum(apart[: count - attackers - 2]))
    kept = np.argsort(scores, kind="stable")[: count - attackers]
    return np.average(arrays[kept], axis=0, weights=np.array(cases)[kept])


@given(UPDATES)
def test_the_coordinate_median_is_that_of_the_cases(updates):
    arrays, cases = as_arrays(updates)
    expected = [median(column, cases) for column in arrays.T]
    np.testing.assert_allclose(values_of("coordinate_median", updates), expected, rtol=1e-6)


@given(UPDATES)
def test_the_trimmed_mean_cuts_a_share_of_the_cases_at_either_end(updates):
    arrays, cases = as_arrays(updates)
    expected = [trimmed(column, cases) for column in arrays.T]
    np.testing.assert_allclose(
        values_of("trimmed_mean", updates, trim=TRIM), expected, rtol=1e-5, atol=1e-4
    )


@given(UPDATES, st.sampled_from([1.0, 1.5]))
def test_norm_clipping_bounds_updates_by_the_median_norm_of_the_cases(updates, clip):
    result = values_of("norm_clipping", updates, clip=clip)
    expected = clipped(*as_arrays(updates), clip)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-3)


@given(UPDATES)
def test_multi_krum_leaves_out_the_update_without_close_neighbours(updates):
    arrays, cases = as_arrays(updates)
    apart = [np.linalg.norm(first - second) for first, second in combinations(arrays, 2)]
    if len(set(np.round(apart, 2))) < len(apart):
        return  # scores that nearly tie may be ordered either way
    result = values_of("multi_krum", updates)
    np.testing.assert_allclose(result, krum(arrays, cases), rtol=1e-4, atol=1e-3)


@settings(deadline=None)
@given(UPDATES)
def test_the_geometric_median_has_the_least_weighted_distance(updates):
    arrays, cases = as_arrays(updates)

    def cost(point):
        return np.linalg.norm(arrays - point, axis=1) @ cases

    result = values_of("geometric_median", updates)
    # The cost is convex, so that a search from far away finds what no nearer one misses.
    starts = [result, np.average(arrays, axis=0, weights=cases)]
    best = min(cost(minimize(cost, start, method="Nelder-Mead").x) for start in starts)
    scale = max(1.0, *(np.linalg.norm(arrays, axis=1))) * sum(cases)
    assert cost(result) <= min(best, *(cost(array) for array in arrays)) + 1e-4 * scale


@pytest.mark.parametrize("name", COLLECTED)
@given(updates=UPDATES, random=st.randoms(use_true_random=False))
def test_the_bytes_do_not_depend_on_the_order_of_arrival(name, updates, random):
    named = [(f"h{index}", *update) for index, update in enumerate(updates)]
    digests = set()
    for _ in range(2):
        rule = RULES[name](SCHEMA)
        for hospital, values, cases in named:
            rule.add(hospital, {"w": torch.tensor(values)}, cases)
        digests.add(digest(rule.aggregate().change))
        random.shuffle(named)
    assert len(digests) == 1


@pytest.mark.parametrize("name", COLLECTED)
@given(updates=UPDATES, names=st.randoms(use_true_random=False))
def test_the_names_of_the_hospitals_do_not_matter(name, updates, names):
    before = values_of(name, updates)
    shuffled = list(updates)
    names.shuffle(shuffled)
    if name == "multi_krum" and len({tuple(values) for values, _ in updates}) < len(updates):
        return
    scale = max(abs(value) for values, _ in updates for value in values) + 1e-6
    if name != "multi_krum":  # if scores tie, the first names win
        np.testing.assert_allclose(values_of(name, shuffled), before, atol=1e-5 * scale)


@pytest.mark.parametrize("name", sorted(set(COLLECTED) - {"norm_clipping"}))
@given(updates=UPDATES, shift=st.integers(-8, 8))
def test_a_shift_of_all_shifts_the_result(name, updates, shift):
    whole = [([float(round(value)) for value in values], cases) for values, cases in updates]
    moved = [([value + shift for value in values], cases) for values, cases in whole]
    np.testing.assert_allclose(
        values_of(name, moved), values_of(name, whole) + shift, rtol=1e-5, atol=2e-2
    )


@pytest.mark.parametrize("name", COLLECTED)
@given(updates=UPDATES, factor=st.sampled_from([-2.0, -1.0, 0.5, 4.0]))
def test_a_factor_of_all_is_a_factor_of_the_result(name, updates, factor):
    scaled = [([value * factor for value in values], cases) for values, cases in updates]
    scale = max(abs(value) for values, _ in updates for value in values) + 1e-6
    np.testing.assert_allclose(
        values_of(name, scaled), values_of(name, updates) * factor, rtol=1e-5, atol=1e-4 * scale
    )


@pytest.mark.parametrize("name", ["coordinate_median", "trimmed_mean", "norm_clipping"])
@given(updates=UPDATES)
def test_a_hospital_of_k_cases_equals_k_hospitals_of_one(name, updates):
    few = [(values, 1 + cases % 3) for values, cases in updates]
    repeated = [(values, 1) for values, cases in few for _ in range(cases)]
    np.testing.assert_allclose(
        values_of(name, few), values_of(name, repeated), rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("name", COLLECTED)
@given(values=st.lists(NUMBERS, min_size=SIZE, max_size=SIZE), count=st.integers(1, 8))
def test_equal_updates_are_the_result(name, values, count):
    updates = [(values, 7 * index + 1) for index in range(count)]
    np.testing.assert_allclose(values_of(name, updates), values, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("name", COLLECTED)
def test_counters_follow_the_median_and_buffers_are_combined_separately(name):
    schema = {
        "count": TensorSpec(torch.int64, (), Reduction.INTEGER, trainable=False),
        "kept": TensorSpec(torch.float32, (2,), Reduction.LOCAL),
        "variance": TensorSpec(torch.float32, (2,), Reduction.MEAN, trainable=False),
        "w": TensorSpec(torch.float32, (2,), Reduction.MEAN),
    }
    rule = RULES[name](schema)
    for index in range(6):
        wild = index == 5
        tensors = {
            "count": torch.tensor(10**9 if wild else 20),
            "variance": torch.full((2,), 100.0 + index),
            "w": torch.full((2,), 6e4 if wild else 1.0 + index / 1000),
        }
        rule.add(f"h{index}", tensors, 10)
    result = rule.aggregate()
    assert list(result.change) == ["count", "variance", "w"]
    assert result.change["count"].dtype == torch.int64
    assert int(result.change["count"]) == 20
    assert result.change["w"].max() < 1.2
    assert 100 <= result.change["variance"].min() <= result.change["variance"].max() <= 105
    assert result.treatment["h5"].distance > 100
    assert max(result.treatment[f"h{index}"].distance for index in range(5)) < 5


@pytest.mark.parametrize(("name", "kept"), [("norm_clipping", 0.1), ("multi_krum", 0.0)])
def test_a_hospital_that_is_held_back_is_reported_with_a_number(name, kept):
    updates = [([1.0 + index / 100] * SIZE, 10) for index in range(6)] + [([1000.0] * SIZE, 10)]
    treatment = aggregate(name, updates).treatment
    assert treatment["h006"].kept <= kept
    assert min(treatment[f"h{index:03d}"].kept for index in range(5)) > 0.5


def test_no_distance_is_reported_if_the_aggregate_is_one_hospitals_update():
    updates = [([1.0] * SIZE, 90), ([2.0] * SIZE, 10)]
    treatment = aggregate("coordinate_median", updates).treatment
    assert [treated.distance for treated in treatment.values()] == [None, None]


@pytest.mark.parametrize("name", COLLECTED)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_of_the_model_is_kept(name, dtype):
    schema = {"w": TensorSpec(dtype, (SIZE,), Reduction.MEAN)}
    updates = [([0.5] * SIZE, 3), ([0.5] * SIZE, 1)]
    change = aggregate(name, updates, schema).change["w"]
    assert change.dtype == dtype
    torch.testing.assert_close(change, torch.full((SIZE,), 0.5, dtype=dtype))


@pytest.mark.parametrize("name", COLLECTED)
def test_an_update_that_is_not_finite_or_beyond_the_bound_is_refused(name):
    rule = RULES[name](SCHEMA, max_change=10.0)
    for value, code in ((torch.nan, "not-finite"), (11.0, "too-large"), (torch.inf, "not-finite")):
        with pytest.raises(InvalidUpdate) as refusal:
            rule.add("h", {"w": torch.tensor([0.0, value, 0, 0, 0])}, 1)
        assert (refusal.value.code, refusal.value.tensor) == (code, "w")
    with pytest.raises(ZeroDivisionError):
        rule.aggregate()


@pytest.mark.parametrize("name", COLLECTED)
def test_large_tensors_come_out_in_place_and_rounds_do_not_mix(name):
    schema = {"w": TensorSpec(torch.float32, (3, 40_000), Reduction.MEAN)}
    rule = RULES[name](schema)
    for _ in range(2):
        values = torch.randn(3, 40_000)
        rule.reset()
        for hospital, cases in (("a", 1), ("b", 5), ("c", 2)):
            rule.add(hospital, {"w": values}, cases)
        change = rule.aggregate().change["w"]
        torch.testing.assert_close(change, values, rtol=1e-6, atol=1e-30)


@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=12), st.floats(0.05, 1))
def test_no_capped_share_is_above_the_cap_and_none_is_cut_further_than_needed(cases, share):
    weights = cap_shares(cases, share)
    if share * len(cases) <= 1:
        assert set(weights) == {1.0}
        return
    assert weights.max() <= share * weights.sum() * (1 + 1e-12) or weights.max() <= 2 / 1024
    cut = weights < cases
    # Weights that were cut are equal: the cap, rounded to 1/1024 of a case.
    if cut.any():
        assert len(set(weights[cut])) == 1
        assert weights.max() + 2 / 1024 >= share * weights.sum() or weights.max() < 1
    assert (weights[~cut] == np.array(cases)[~cut]).all()


def test_the_weighted_median_of_a_tie_is_the_mean_of_both():
    values = np.array([3.0, 1.0, 10.0])
    assert weighted_median(values, np.array([1.0, 2.0, 3.0])) == 6.5
    assert weighted_median(values, np.array([1.0, 2.0, 2.5])) == 3.0


@pytest.mark.parametrize("count", range(1, 17))
def test_the_network_sorts_every_sequence_of_zeros_and_ones(count):
    # By the 0-1 principle it then sorts everything (Knuth, volume 3, section 5.3.4).
    everything = (np.arange(1 << count)[:, None] >> np.arange(count)) & 1
    for wanted in (range(count), {(count - 1) // 2, count // 2}, {0}, {count - 1}):
        columns = [everything[:, index].copy() for index in range(count)]
        for low, high, _, _ in network(count, frozenset(wanted)):
            pair = columns[low], columns[high]
            columns[low], columns[high] = np.minimum(*pair), np.maximum(*pair)
        expected = np.sort(everything, axis=1)
        for rank in wanted:
            assert (columns[rank] == expected[:, rank]).all()


def test_distances_of_long_updates_that_are_close_are_right():
    rng = np.random.default_rng(0)
    base = rng.standard_normal(50_000)
    rows = [(base + 1e-4 * rng.standard_normal(50_000)).astype(np.float32) for _ in range(4)]
    schema = {"w": TensorSpec(torch.float32, (50_000,), Reduction.MEAN)}
    squared = squared_distances(schema, [{"w": torch.from_numpy(row)} for row in rows])
    for i, j in combinations(range(4), 2):
        true = np.sum((rows[i].astype(np.float64) - rows[j].astype(np.float64)) ** 2)
        assert squared[i, j] == squared[j, i] == pytest.approx(true, rel=1e-5)


def compiled_and_not(name, updates, schema=SCHEMA):
    assert exact_sum.find_compiled("compiled_coordinates") is not None
    plain = aggregate(name, updates, schema)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_sum, "MANY", 0)
        return plain, aggregate(name, updates, schema)


def assert_same(plain, compiled):
    assert digest(plain.change) == digest(compiled.change)
    for hospital, treatment in plain.treatment.items():
        distance = compiled.treatment[hospital].distance
        assert distance == treatment.distance or distance == pytest.approx(
            treatment.distance, rel=1e-5
        )


@settings(deadline=None)
@given(UPDATES, st.sampled_from(["coordinate_median", "trimmed_mean"]), st.booleans())
def test_one_compiled_pass_gives_the_same_bytes(updates, name, alike):
    updates = [(values, 1 if alike else cases) for values, cases in updates]
    assert_same(*compiled_and_not(name, updates))


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 1e-38, -3.0, 3.0]), min_size=2, max_size=40
    ),
    st.sampled_from(["coordinate_median", "trimmed_mean"]),
    st.booleans(),
)
def test_one_compiled_pass_gives_the_same_zeros(values, name, alike):
    updates = [([value] * SIZE, 1 if alike else 1 + n) for n, value in enumerate(values)]
    plain, compiled = compiled_and_not(name, updates)
    assert digest(plain.change) == digest(compiled.change)
    zeros = compiled.change["w"] == 0
    assert not torch.signbit(compiled.change["w"][zeros]).any()


@pytest.mark.parametrize("hospitals", [1, 2, 3, 16, 33, 64, 130])
@pytest.mark.parametrize("name", ["coordinate_median", "trimmed_mean"])
@pytest.mark.parametrize("alike", [True, False])
def test_one_compiled_pass_over_many_tiles(hospitals, name, alike):
    generator = np.random.default_rng(hospitals)
    schema = {"w": TensorSpec(torch.float32, (1357,), Reduction.MEAN)}
    # Few values, so that many are the same.
    rows = generator.integers(-9, 9, (hospitals, 1357)) * np.exp2(generator.integers(-9, 9, 1357))
    cases = np.ones(hospitals) if alike else generator.integers(1, 1000, hospitals)
    updates = [(row, int(count)) for row, count in zip(rows, cases, strict=True)]
    assert_same(*compiled_and_not(name, updates, schema))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_one_compiled_pass_accepts_tensors_of_every_dtype_and_form(dtype):
    schema = {
        "a": TensorSpec(dtype, (3, 70), Reduction.MEAN),
        "b": TensorSpec(dtype, (), Reduction.MEAN),
    }
    updates = {
        f"h{index}": {"a": torch.randn(70, 6, dtype=dtype).T[::2], "b": torch.tensor(index / 7)}
        for index in range(5)
    }
    aggregates = []
    with pytest.MonkeyPatch.context() as patch:
        for many in (exact_sum.MANY, 0):
            patch.setattr(exact_sum, "MANY", many)
            rule = RULES["trimmed_mean"](schema)
            for hospital, tensors in updates.items():
                rule.add(hospital, tensors, 1)
            aggregates.append(rule.aggregate())
    assert_same(*aggregates)
