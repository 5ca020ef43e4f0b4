import numpy as np
import pytest

from consortium.confounding.moments import LIMIT, Group, Moments, collect, moments, project


def test_moments_are_the_count_the_mean_and_the_scatter() -> None:
    values = np.random.default_rng(0).normal(size=(40, 3))
    group = moments(values, range(40), 10)
    assert group is not None
    assert group.count == 40
    np.testing.assert_allclose(group.mean, values.mean(0))
    np.testing.assert_allclose(group.scatter, np.cov(values.T) * 39)


def test_a_patient_with_several_images_counts_once() -> None:
    values = np.random.default_rng(1).normal(size=(12, 2))
    patients = [f"p{number}" for number in range(12)]
    once = moments(values, patients, 10)
    again = np.concatenate([values, values[:1] + 1, values[:1] - 1])
    thrice = moments(again, [*patients, "p0", "p0"], 10)
    assert once is not None
    assert thrice is not None
    assert thrice.count == 12
    np.testing.assert_allclose(thrice.mean, once.mean)
    np.testing.assert_allclose(thrice.scatter, once.scatter)


def test_a_group_below_the_minimum_group_size_is_not_reported() -> None:
    values = np.zeros((30, 2))
    assert moments(values, [number % 9 for number in range(30)], 10) is None
    assert moments(values, [number % 10 for number in range(30)], 10) is not None


def test_as_many_dimensions_as_patients_are_refused() -> None:
    with pytest.raises(ValueError, match="10 dimensions need groups larger than 10"):
        moments(np.zeros((50, 10)), range(50), 10)


def test_a_patients_values_are_clipped_to_the_limit() -> None:
    values = np.zeros((10, 1))
    values[0] = 1e9
    group = moments(values, range(10), 10)
    assert group is not None
    assert group.mean == pytest.approx(LIMIT / 10)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        moments(np.full((10, 1), value), range(10), 10)


@pytest.mark.parametrize(
    ("count", "mean", "scatter"),
    [
        (0, [0.0], [[1.0]]),
        (9, [0.0, 0.0], [[1.0]]),
        (9, [np.nan], [[1.0]]),
        (9, [LIMIT + 1], [[1.0]]),
        (9, [0.0], [[-1.0]]),
        (9, [0.0], [[9 * LIMIT**2 + 1]]),
        (9, [0.0, 0.0], [[1.0, 0.5], [0.0, 1.0]]),
    ],
)
def test_moments_that_no_group_has_are_refused(
    count: int, mean: list[float], scatter: list[list[float]]
) -> None:
    with pytest.raises(ValueError, match="moments"):
        Moments(count, np.array(mean), np.array(scatter))


def test_every_hospital_projects_onto_the_same_few_directions() -> None:
    features = np.random.default_rng(2).normal(size=(5, 64))
    both = project(features, 8, 7)
    assert both.shape == (5, 8)
    np.testing.assert_allclose(project(1000 * features[:2], 8, 7), both[:2])
    assert not np.allclose(project(features, 8, 8), both)
    assert np.abs(both).max() <= np.sqrt(64)
    assert project(features, 100, 7).shape == (5, 64)


def test_groups_are_by_hospital_and_label() -> None:
    hospitals = np.array(["a"] * 20 + ["b"] * 12)
    labels = np.array(["x"] * 15 + ["y"] * 5 + ["x"] * 12)
    values = np.arange(32.0)[:, None] / 10
    groups = collect(values, hospitals, labels, range(32), 10)
    assert set(groups) == {Group("a", "x"), Group("b", "x")}
    assert groups[Group("a", "x")].mean == pytest.approx(values[:15].mean())
