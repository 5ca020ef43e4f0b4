import numpy as np
import pytest
from scripts.benchmarks.paired import Difference, holm_intervals, paired_difference

PATIENTS = [f"p{number}" for number in range(40)]
WHERE = {patient: "north" if number < 30 else "south" for number, patient in enumerate(PATIENTS)}


def scores(seed, mean, spread=0.1):
    values = np.random.default_rng(seed).normal(mean, spread, len(PATIENTS))
    return dict(zip(PATIENTS, map(float, values), strict=True))


def test_a_constant_difference_has_no_width():
    first = scores(0, 0.5)
    second = {patient: value - 0.1 for patient, value in first.items()}
    result = paired_difference(first, second, WHERE)
    assert result.mean == pytest.approx(0.1)
    assert result.interval() == (pytest.approx(0.1), pytest.approx(0.1))
    assert result.patients == 40
    assert result.p < 0.001


def test_the_interval_is_that_of_the_paired_mean():
    first, second = scores(1, 0.6), scores(2, 0.5)
    result = paired_difference(first, second, WHERE)
    changes = np.array([first[p] - second[p] for p in PATIENTS])
    groups = [changes[:30], changes[30:]]
    error = np.sqrt(sum(len(g) ** 2 * g.var() / len(g) for g in groups)) / 40
    low, high = result.interval()
    assert (low, high) == pytest.approx(
        (result.mean - 1.96 * error, result.mean + 1.96 * error), abs=0.15 * error
    )
    assert result.lower() == pytest.approx(result.mean - 1.645 * error, abs=0.15 * error)


def test_hospitals_keep_their_number_of_patients_in_every_resample():
    """With strata, an interval has no width if only the hospitals differ."""
    zero = dict.fromkeys(PATIENTS, 0.0)
    first = {patient: 1.0 if WHERE[patient] == "north" else 0.0 for patient in PATIENTS}
    result = paired_difference(first, zero, WHERE)
    assert result.interval() == (0.75, 0.75)


def test_other_patients_are_not_compared():
    with pytest.raises(ValueError, match="same patients"):
        paired_difference({"p0": 0.5}, {"p1": 0.5}, WHERE)
    with pytest.raises(ValueError, match="same patients"):
        paired_difference({}, {}, WHERE)


def difference(mean, error):
    draws = np.sort(np.random.default_rng(0).normal(mean, error, 20_000))
    return Difference(mean, 40, draws)


def test_holm_is_strictest_for_the_clearest_difference_and_stops_at_the_first_that_fails():
    clear, middle, unclear = difference(0.5, 0.1), difference(0.21, 0.1), difference(0.1, 0.1)
    intervals = holm_intervals([middle, unclear, clear])
    # m = 3: the clearest gets 1 - 0.05 / 3. The middle one, p 0.036, fails at 1 - 0.05 / 2, so the
    # unclear one keeps that level.
    assert intervals[2] == clear.interval(1 - 0.05 / 3)
    assert intervals[0] == middle.interval(1 - 0.05 / 2)
    assert intervals[0][0] < 0 < middle.interval(0.95)[0]
    assert intervals[1] == unclear.interval(1 - 0.05 / 2)


def test_one_comparison_needs_no_correction():
    only = difference(0.1, 0.1)
    assert holm_intervals([only]) == [only.interval(0.95)]
