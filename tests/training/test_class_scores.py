import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from consortium.metrics import Classification, Metrics, Score, Scored
from consortium.training.class_scores import auroc, classify

CLASSES = ("well", "ill")
SCORED = Scored("classes", ("accuracy", "AUROC"), CLASSES)


def test_known_areas():
    truth = np.array([0, 0, 1, 1])
    assert auroc(np.array([0.1, 0.4, 0.35, 0.8]), truth) == 0.75
    assert auroc(np.array([0.5, 0.5, 0.5, 0.5]), truth) == 0.5
    assert auroc(np.array([0.5, 0.6]), np.array([1, 1])) is None


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0]), st.integers(0, 1)), min_size=1
    )
)
def test_the_area_is_the_share_of_pairs_in_the_right_order(cases):
    given_to = {kind: [p for p, truth in cases if truth == kind] for kind in (0, 1)}
    pairs = [(ill > well) + 0.5 * (ill == well) for ill in given_to[1] for well in given_to[0]]
    found = auroc(*map(np.array, zip(*cases, strict=True)))
    assert found == (pytest.approx(np.mean(pairs)) if pairs else None)


def test_a_score_says_how_many_it_is_of_and_how_sure():
    truth = np.array([0] * 20 + [1] * 30)
    probabilities = np.linspace(0, 1, 50)
    value, score = classify(probabilities, truth, CLASSES, 5)
    assert value == score.value == score.figures["accuracy"] == 0.9
    assert score.support == {"well": 20, "ill": 30}
    assert score.figures["AUROC"] == 1.0
    low, high = score.interval["accuracy"]
    assert low < 0.9 < high
    assert score.interval["AUROC"] == [1.0, 1.0]
    assert classify(probabilities, truth, CLASSES, 5)[1] == score


@pytest.mark.parametrize(
    ("truth", "withheld"),
    [([0, 1, 1, 0], "fewer than 5 patients"), ([1] * 9 + [0], "fewer than 5 patients of a class")],
)
def test_nothing_is_said_of_few_patients_or_of_few_of_a_class(truth, withheld):
    value, score = classify(np.full(len(truth), 0.6), np.array(truth), CLASSES, 5)
    assert value == np.mean(truth)
    assert score == Classification(withheld=withheld)


def test_of_one_class_there_is_no_area_but_an_accuracy():
    score = classify(np.array([0.2, 0.9]), np.array([1, 1]), CLASSES, 1)[1]
    assert score.figures == {"accuracy": 0.5, "AUROC": None}
    assert set(score.interval) == {"accuracy"}


SOUND = {"patients": 3, "support": {"well": 1, "ill": 2}, "figures": {"accuracy": 0.5, "AUROC": 1}}


@pytest.mark.parametrize(
    "spoil",
    [
        {"patients": 4},
        {"figures": {"accuracy": None, "AUROC": 0.5}},
        {"figures": {"accuracy": 1.5, "AUROC": 0.5}},
        {"withheld": "fewer than 5 patients"},
        {"withheld": "Jane Doe"},
        {"support": None},
        {"interval": {"accuracy": [0.9, 0.1]}},
        {"interval": {"f1": [0.1, 0.9]}},
        {"more": 1},
    ],
)
def test_a_score_that_makes_no_sense_is_none(spoil):
    with pytest.raises(ValidationError):
        Classification.model_validate({**SOUND, **spoil})


@pytest.mark.parametrize(
    ("score", "fits"),
    [
        (Classification(**SOUND), True),
        (Classification(withheld="fewer than 5 patients of a class"), True),
        (Classification(**{**SOUND, "support": {"Jane Doe": 1, "ill": 2}}), False),
        (Score(patients=3, dice={"tumour": 0.5}), False),
        (Score(patients=3, dice=dict.fromkeys(SCORED.names, 0.5)), False),
        (None, True),
    ],
)
def test_a_hospital_scores_what_the_job_scores_and_nothing_else(score, fits):
    told = Metrics.model_validate(Metrics(validation=score).model_dump())
    assert type(told.validation) is type(score)
    assert told.fit(SCORED, 100) is fits
    assert told.fit(SCORED, 2) is (score is None or score.patients is None)
