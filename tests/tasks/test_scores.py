import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.conftest import ROOT

from consortium.core.json_files import read_json_object
from consortium.protocol.metrics import Metrics, MetricSpec, Score, ScoreSpec
from consortium.tasks.classification.scores import classify_radiographs
from consortium.tasks.classification.settings import CLASS_FIGURES
from consortium.tasks.registry import parse_settings
from consortium.tasks.scores import (
    auroc,
    bin_starts,
    calibration_errors,
    curve_figures,
    reliability,
    resample,
    with_both,
)
from consortium.tasks.tabular.scores import classify

CLASSES = ("well", "ill")
KINDS = ("COVID-19", "pneumonia, bacterial", "normal")
SCORED = ScoreSpec(
    (
        MetricSpec(name="accuracy", figure="accuracy", headline=True),
        MetricSpec(name="AUROC", figure="AUROC", required=False),
    ),
    CLASSES,
)


def radiograph_spec():
    raw = read_json_object(ROOT / "jobs/covid_detection/app/config/settings.json")
    data = {**raw["data"], "classes": {kind: [kind] for kind in KINDS}}
    return parse_settings({**raw, "data": data}).scored


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
    area = auroc(*map(np.array, zip(*cases, strict=True)))
    assert area == (pytest.approx(np.mean(pairs)) if pairs else None)


def test_a_score_says_how_many_it_is_of_and_how_sure():
    truth = np.array([0] * 20 + [1] * 30)
    probabilities = np.linspace(0, 1, 50)
    value, score = classify(probabilities, truth, CLASSES, 5)
    assert value == SCORED.headline(score.figures) == score.figures["accuracy"] == 0.9
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
    assert score == Score(withheld=withheld)


def test_one_class_alone_has_an_accuracy_and_no_area():
    score = classify(np.array([0.2, 0.9]), np.array([1, 1]), CLASSES, 1)[1]
    assert score.figures == {"accuracy": 0.5, "AUROC": None}
    assert set(score.interval) == {"accuracy"}


def mixed(draw_from):
    """Scores of patients of both classes, and how often each counts."""
    rest = st.lists(st.tuples(draw_from, st.booleans(), st.integers(0, 3)), max_size=20)
    return st.tuples(draw_from, draw_from, rest).map(
        lambda drawn: [(drawn[0], True, 1), (drawn[1], False, 2), *drawn[2]]
    )


TIED = mixed(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]))
SPECIFICITY = st.sampled_from([0.0, 0.5, 0.8, 0.9, 1.0])


def slow_figures(cases, specificity):
    """Computes the figures by pairs and by threshold, with patients repeated by weight."""
    ill = [score for score, positive, times in cases if positive for _ in range(times)]
    well = [score for score, positive, times in cases if not positive for _ in range(times)]
    area = np.mean([(a > b) + 0.5 * (a == b) for a in ill for b in well])
    precision = sensitivity = recall = 0.0
    for cut in sorted({*ill, *well}, reverse=True):
        true, false = sum(a >= cut for a in ill), sum(b >= cut for b in well)
        precision += true / (true + false) * (true / len(ill) - recall)
        recall = true / len(ill)
        if (len(well) - false) / len(well) >= specificity:
            sensitivity = recall
    return area, precision, sensitivity


@given(TIED, SPECIFICITY)
def test_figures_are_those_of_patients_who_are_there_as_often_as_they_count(cases, specificity):
    scores, positive, times = map(np.array, zip(*cases, strict=True))
    others = np.ones_like(times)
    figures = curve_figures(scores, positive, np.array([others, times]), specificity)
    once = [(score, kind, 1) for score, kind, _ in cases]
    for row, of in enumerate((once, cases)):
        assert [figure[row] for figure in figures] == pytest.approx(slow_figures(of, specificity))


@given(TIED, SPECIFICITY, st.randoms(use_true_random=False))
def test_the_order_of_the_patients_does_not_matter(cases, specificity, random):
    def figures(of):
        scores, positive, times = map(np.array, zip(*of, strict=True))
        return np.ravel(curve_figures(scores, positive, times[None], specificity))

    assert figures(random.sample(cases, len(cases))) == pytest.approx(figures(cases))


def test_figures_at_known_cuts():
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.05, 0.85])
    positive = np.array([True, False, *[False] * 9, True])
    figures = curve_figures(scores, positive, np.ones((1, 12)), 0.9)
    assert [figure[0] for figure in figures] == [1.0, 1.0, 1.0]
    positive[:2] = False, True
    figures = curve_figures(scores, positive, np.ones((1, 12)), 0.9)
    assert figures.auroc[0] == 0.9
    assert figures.average_precision[0] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert figures.sensitivity[0] == 1.0  # one of ten is right at the edge
    assert curve_figures(scores, positive, np.ones((1, 12)), 0.91).sensitivity[0] == 0.0


def test_a_calibrated_model_lies_on_the_diagonal_and_a_sure_one_beside_it():
    predicted = np.repeat([0.2, 0.8], 50)
    positive = np.array([True] * 10 + [False] * 40 + [True] * 40 + [False] * 10)
    starts = bin_starts(predicted, 5)
    assert starts.tolist() == [0, 50]
    once = np.ones((1, 100))
    assert calibration_errors(predicted, positive, once, starts) == pytest.approx(0)
    assert np.allclose(reliability(predicted, positive, starts), [[0.2, 0.2, 50], [0.8, 0.8, 50]])
    sure = np.repeat([0.0, 1.0], 50)
    assert calibration_errors(sure, positive, once, starts) == pytest.approx(0.2)
    right = np.array([[1] * 10 + [0] * 80 + [1] * 10])
    assert calibration_errors(sure, positive, right, starts) == pytest.approx(1)


@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.5]) | st.floats(0, 1), max_size=300),
    st.integers(1, 20),
)
def test_a_bin_is_never_small_and_equals_are_never_parted(predicted, smallest_group):
    predicted, least = np.sort(predicted), max(10, 2 * smallest_group)
    starts = bin_starts(predicted, smallest_group)
    assert (starts is None) == (len(predicted) < 2 * least)
    if starts is not None:
        sizes = np.diff([*starts, len(predicted)])
        assert len(sizes) <= 10
        assert sizes.min() >= least
        assert all(predicted[start - 1] < predicted[start] for start in starts[1:])


@settings(max_examples=50)
@given(st.integers(20, 200), st.integers(0, 2**32 - 1))
def test_the_calibration_error_is_the_distance_from_the_diagonal(patients, seed):
    generator = np.random.default_rng(seed)
    predicted = np.sort(generator.random(patients))
    positive = generator.random(patients) < 0.3
    starts = bin_starts(predicted, 5)
    curve = reliability(predicted, positive, starts)
    assert len(curve) == min(10, patients // 10)
    slow = sum(abs(mean - share) * size for mean, share, size in curve) / patients
    error = calibration_errors(predicted, positive, np.ones((1, patients)), starts)
    assert error == pytest.approx(slow)
    assert sum(share * size for _, share, size in curve) == pytest.approx(positive.sum())


def radiographs(counts, seed=0):
    """One X-ray of each patient: probabilities that favour the true class."""
    generator = np.random.default_rng(seed)
    truth = np.repeat(np.arange(3), counts)
    logits = generator.normal(size=(len(truth), 3)) + 1.5 * np.eye(3)[truth]
    odds = np.exp(logits)
    return (
        odds / odds.sum(1, keepdims=True),
        truth,
        [f"patient-{kind}-{number}" for number, kind in enumerate(truth)],
    )


def score_radiographs(probabilities, truth, patients, smallest_group=5):
    return classify_radiographs(
        probabilities, truth, patients, KINDS, smallest_group, specificity=0.9
    )[:2]


def test_a_score_of_radiographs_has_every_class_with_intervals():
    value, score = score_radiographs(*radiographs((30, 40, 50)))
    assert value == score.figures["accuracy"]
    areas = [score.figures[f"AUROC, {name}"] for name in score.support]
    assert radiograph_spec().headline(score.figures) == pytest.approx(np.mean(areas))
    assert score.support == dict(zip(KINDS, (30, 40, 50), strict=True))
    assert score.patients == 120
    assert tuple(score.figures) == tuple(metric.name for metric in radiograph_spec().metrics)
    assert set(score.interval) == set(score.figures)
    for name, (low, high) in score.interval.items():
        assert low < high
        if "calibration" not in name:  # whose resamples are too large
            assert low <= score.figures[name] <= high
    assert [sum(size for *_, size in score.reliability[kind]) for kind in KINDS] == [120] * 3
    fitting = radiograph_spec()
    received = json.loads(json.dumps(Metrics(validation=score).model_dump()))
    assert Metrics.model_validate(received).fits(fitting, 120)
    assert Metrics.model_validate(received).validation == score


def test_figures_of_radiographs_are_those_of_one_class_against_the_rest():
    probabilities, truth, patients = radiographs((9, 14, 7), seed=4)
    figures = score_radiographs(probabilities, truth, patients)[1].figures
    for number, kind in enumerate(KINDS):
        cases = list(zip(probabilities[:, number], truth == number, [1] * 30, strict=True))
        measured = [figures[f"{figure}, {kind}"] for figure in CLASS_FIGURES[:3]]
        assert measured == pytest.approx(slow_figures(cases, 0.9))
    assert figures["accuracy"] == pytest.approx(np.mean(probabilities.argmax(1) == truth))


def test_intervals_of_radiographs_include_the_variation_of_the_class_shares():
    """A model that predicts one class for all: its accuracy is the share of that class."""
    truth = np.repeat([0, 1, 2], (100, 50, 50))
    predicted = np.tile([0.4, 0.3, 0.3], (200, 1))
    score = score_radiographs(predicted, truth, [f"P{number}" for number in range(200)])[1]
    low, high = score.interval["accuracy"]
    assert score.figures["accuracy"] == 0.5
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(0.5 * 0.5 / 200), rel=0.1)
    low, high = score.interval[f"average precision, {KINDS[0]}"]
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(0.5 * 0.5 / 200), rel=0.1)


def test_resamples_without_a_class_are_left_out():
    positive = np.repeat([True, False], (2, 31))
    weights = resample(33, 500, np.random.default_rng(0))
    assert (weights.sum(1) == 33).all()
    kept = with_both(weights, positive)
    lacking = ~weights[:, positive].any(1)
    assert 0 < lacking.sum() == len(weights) - len(kept)
    assert np.array_equal(kept, weights[~lacking])
    assert np.ptp(kept[:, positive].sum(1)) > 3


def test_many_classes_of_few_patients_have_intervals():
    names = [f"class {number}" for number in range(40)]
    truth = np.repeat(np.arange(40), 2)
    predicted = np.random.default_rng(0).dirichlet(np.ones(40), 80)
    patients = [f"P{number}" for number in range(80)]
    score = classify_radiographs(predicted, truth, patients, names, 1, specificity=0.9)[1]
    assert all(f"AUROC, {name}" in score.interval for name in names)


def test_the_same_radiographs_in_another_order_give_the_same_score():
    probabilities, truth, patients = radiographs((30, 40, 50))
    order = np.random.default_rng(1).permutation(120)
    again = score_radiographs(probabilities[order], truth[order], [patients[at] for at in order])
    assert again == score_radiographs(probabilities, truth, patients)


def test_a_patient_counts_once_however_many_radiographs_there_are():
    probabilities, truth, patients = radiographs((8, 8, 8))
    apart = np.concatenate([probabilities * 0.5, probabilities * 1.5])  # with the same mean
    twice = score_radiographs(apart, np.tile(truth, 2), patients * 2)
    once = score_radiographs(probabilities, truth, patients)
    assert twice[0] == once[0]
    assert twice[1].support == once[1].support
    assert twice[1].figures == pytest.approx(once[1].figures)
    both = score_radiographs(apart, np.concatenate([truth, (truth + 1) % 3]), patients * 2)
    assert both[1].patients == 48  # a patient with two labels is one of each


@pytest.mark.parametrize("few", [0, 1, 2])
def test_a_class_of_few_patients_leaves_no_trace(few):
    counts = [12, 15, 30]
    counts[few] = 4
    probabilities, truth, patients = radiographs(counts)
    others = truth != few
    value, score = score_radiographs(probabilities, truth, patients)
    without = score_radiographs(
        probabilities[others],
        truth[others],
        [p for p, kept in zip(patients, others, strict=True) if kept],
    )[1]
    assert score.model_dump_json() == without.model_dump_json()
    assert KINDS[few] not in score.support
    assert all(
        (value is None) == name.endswith(KINDS[few]) for name, value in score.figures.items()
    )
    assert value == np.mean(probabilities.argmax(1) == truth)


def test_radiographs_of_one_class_have_an_accuracy_alone():
    score = score_radiographs(*radiographs((4, 40, 4)))[1]
    assert score.support == {KINDS[1]: 40}
    assert {name for name, value in score.figures.items() if value is not None} == {"accuracy"}
    assert set(score.interval) == {"accuracy"}
    assert score.reliability is None


def test_the_score_is_withheld_if_no_class_is_large_enough():
    value, score = score_radiographs(*radiographs((4, 4, 0)))
    assert 0 < value <= 1
    assert score == Score(withheld="fewer than 5 patients of a class")


def test_a_class_of_one_patient_has_figures_without_intervals():
    score = score_radiographs(*radiographs((1, 9, 9)), smallest_group=1)[1]
    assert score.figures[f"AUROC, {KINDS[0]}"] is not None
    assert f"AUROC, {KINDS[0]}" not in score.interval
    assert f"AUROC, {KINDS[1]}" in score.interval
    assert score.figures[f"calibration error, {KINDS[1]}"] is None
    assert score.reliability is None


SOUND = {"patients": 3, "support": {"well": 1, "ill": 2}, "figures": {"accuracy": 0.5, "AUROC": 1}}


def accepted(raw, spec):
    """Whether the orchestrator takes it as a score of a job."""
    try:
        return spec.accepts(Score.model_validate(raw))
    except ValidationError:
        return False


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
    assert accepted(SOUND, SCORED)
    assert not accepted({**SOUND, **spoil}, SCORED)


BINS = [[0.1, 0, 10], [0.5, 0.75, 12]]
RELIABLE = {
    "patients": 22,
    "support": {"well": 10, "ill": 12},
    "figures": {"accuracy": 0.5, "calibration error, ill": 0.2, "calibration error, well": None},
    "reliability": {"ill": BINS},
}
UNKNOWN = {**RELIABLE["figures"], "calibration error, ill": None}
CALIBRATED = ScoreSpec(
    (
        MetricSpec(name="accuracy", figure="accuracy"),
        *(
            MetricSpec(
                name=f"calibration error, {name}",
                figure="calibration error",
                of=name,
                required=False,
                reliability=True,
            )
            for name in CLASSES
        ),
    ),
    CLASSES,
)


def test_a_curve_of_sound_bins_is_taken():
    assert Score.model_validate(RELIABLE).reliability == {"ill": BINS}
    assert accepted(RELIABLE, CALIBRATED)
    assert not accepted({**RELIABLE, "figures": UNKNOWN}, CALIBRATED)


@pytest.mark.parametrize(
    "curve",
    [
        {"well": BINS},
        {"Jane Doe": BINS},
        {"ill": []},
        {"ill": [[0.1, 0, 10]]},
        {"ill": [[0.1, 0, 10], [0.5, 0.75, 13]]},
        {"ill": [[0.1, 0, 10], [0.5, 1.25, 12]]},
        {"ill": [[0.1, 0, 10], [-0.5, 0.75, 12]]},
        {"ill": [[0.1, 0, 22], [0.5, 0.75, 0]]},
        {"ill": [[0.1, 0, 10], [0.5, 0.75, 12.0]]},
        {"ill": [[0.1, 0, 10], [0.5, float("nan"), 12]]},
        {"ill": [[0.1, 0, 10], [0.5, 0.75, 12, 1]]},
        {"ill": [[0.1, 0, 1]] * 22},
        {"ill": "Jane Doe"},
    ],
)
def test_a_curve_that_makes_no_sense_is_none(curve):
    assert not accepted({**RELIABLE, "reliability": curve}, CALIBRATED)


def test_nothing_withheld_comes_with_a_curve():
    with pytest.raises(ValidationError):
        Score(withheld="fewer than 5 patients of a class", reliability={"ill": BINS})


@pytest.mark.parametrize(
    ("score", "fits"),
    [
        (Score(**SOUND), True),
        (Score(withheld="fewer than 5 patients of a class"), True),
        (Score(**{**SOUND, "support": {"Jane Doe": 1, "ill": 2}}), False),
        (Score(**{**SOUND, "support": {"ill": 3}}), True),
        (Score(**{**SOUND, "figures": {"accuracy": 0.5}}), False),
        (Score(**{**SOUND, "figures": {"accuracy": 0.5, "AUROC": 1, "ill": 1}}), False),
        (Score(patients=3, figures={"tumour": 0.5}), False),
        (Score(patients=3, figures={"accuracy": 0.5, "AUROC": 0.5}), False),
        (None, True),
    ],
)
def test_a_hospital_scores_what_the_job_scores_and_nothing_else(score, fits):
    metrics = Metrics.model_validate(Metrics(validation=score).model_dump())
    assert type(metrics.validation) is type(score)
    assert metrics.fits(SCORED, 100) is fits
    assert metrics.fits(SCORED, 2) is (score is None or score.patients is None)
