from consortium.orchestration.model_selection import HospitalScore, ModelSelection


def scores(**values):
    return {name: HospitalScore(*value) for name, value in values.items()}


def test_the_score_is_the_mean_over_all_patients():
    decision = ModelSelection("best").observe(0, scores(a=(0.5, 30), b=(0.9, 10)))
    assert decision.score == 0.6


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
