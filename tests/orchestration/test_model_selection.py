import pytest

from consortium.orchestration.model_selection import (
    HospitalScore,
    ModelSelection,
    plausible_patients,
    shares_of,
)


def scores(**values):
    return {name: HospitalScore(*value) for name, value in values.items()}


def test_the_score_is_the_mean_weighted_by_patients():
    four = scores(a=(0.5, 20), b=(0.9, 10), c=(0.7, 20), d=(0.7, 20))
    assert ModelSelection("best").observe(0, four).score == pytest.approx(47 / 70)


@pytest.mark.parametrize(
    ("patients", "shares"),
    [
        ({"a": 7}, {"a": 1}),
        ({"a": 90, "b": 10}, {"a": 1 / 2, "b": 1 / 2}),
        ({"a": 100, "b": 10, "c": 10}, {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}),
        ({"a": 3, "b": 3, "c": 2, "d": 2}, {"a": 0.3, "b": 0.3, "c": 0.2, "d": 0.2}),
        ({"a": 99, "b": 1, "c": 1, "d": 2}, {"a": 1 / 3, "b": 1 / 6, "c": 1 / 6, "d": 1 / 3}),
        ({"a": 9, "b": 800, "c": 900, "d": 9}, {"a": 1 / 6, "b": 1 / 3, "c": 1 / 3, "d": 1 / 6}),
    ],
)
def test_no_hospital_has_more_than_a_third_of_a_score(patients, shares):
    assert shares_of(patients) == pytest.approx(shares)
    assert shares_of(dict(reversed(patients.items()))) == shares_of(patients)


def test_a_hospital_that_lies_about_one_model_does_not_decide():
    claims = {"east": (1.0, 100_000), "north": (0.1, 10), "west": (0.2, 10)}
    selection = ModelSelection("best")
    selection.observe(0, scores(**claims))
    selection.observe(1, scores(east=(0.8, 10), north=(0.8, 10), west=(0.8, 10)))
    assert selection.best_model == 1


def test_a_number_of_patients_that_is_claimed_once_changes_no_comparison():
    others = dict.fromkeys("bcde", (0.5, 40))
    selection = ModelSelection("best")
    selection.observe(0, scores(a=(0.6, 1000), **others))
    selection.observe(1, scores(a=(0.5, 10), **dict.fromkeys("bcde", (0.53, 40))))
    assert selection.best_model == 1


@pytest.mark.parametrize(
    ("cases", "fraction", "most"),
    [(80, 0.2, 50), (0, 0.2, 10), (80, 0.0, 10), (10, 1.0, 30), (90, 0.1, 30)],
)
def test_plausible_patients_are_twice_the_expected_and_ten(cases, fraction, most):
    assert plausible_patients(cases, fraction) == most


def test_the_best_model_is_kept_and_later_ones_win_ties():
    selection = ModelSelection("best")
    decisions = [selection.observe(k, scores(a=(v, 5))) for k, v in enumerate([0.1, 0.4, 0.4, 0.3])]
    assert [decision.best for decision in decisions] == [True, True, True, False]
    assert selection.best_model == 2


def test_a_hospital_that_drops_out_does_not_decide():
    selection = ModelSelection("best")
    selection.observe(0, scores(easy=(0.9, 10), hard=(0.3, 10)))
    assert not selection.observe(1, scores(hard=(0.2, 10))).best
    assert not selection.observe(2, scores(easy=(0.8, 10))).best
    assert selection.observe(3, scores(easy=(0.95, 10))).best


def test_without_any_score_the_last_model_is_kept():
    selection = ModelSelection("best")
    assert [selection.observe(k, {}).best for k in range(3)] == [True] * 3
    assert selection.observe(3, {}).score is None


def test_a_model_that_nobody_scored_does_not_replace_one_that_was():
    selection = ModelSelection("best")
    selection.observe(0, scores(a=(0.2, 5)))
    assert not selection.observe(1, {}).best


def test_the_last_model_is_kept_if_the_job_declares_it():
    selection = ModelSelection(keep="last")
    selection.observe(0, scores(a=(0.9, 5)))
    assert selection.observe(1, scores(a=(0.1, 5))).best


def test_it_stops_after_the_declared_number_of_models_without_a_better_one():
    selection = ModelSelection("best", patience=2)
    stops = [
        selection.observe(k, scores(a=(v, 5))).stop for k, v in enumerate([0.5, 0.4, 0.6, 0.5])
    ]
    assert stops == [False] * 4
    assert selection.observe(4, scores(a=(0.1, 5))).stop


def test_patience_zero_never_stops():
    selection = ModelSelection("best")
    selection.observe(0, scores(a=(0.9, 5)))
    assert not any(selection.observe(k, scores(a=(0.1, 5))).stop for k in range(1, 50))


def test_it_continues_from_its_saved_state():
    selection = ModelSelection("best", patience=3)
    selection.observe(0, scores(a=(0.5, 5)))
    restored = ModelSelection.from_dict(selection.to_dict())
    assert restored.observe(1, scores(a=(0.4, 5))) == selection.observe(1, scores(a=(0.4, 5)))
    assert restored == selection
