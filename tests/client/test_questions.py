"""How many scores a hospital reports, and of which models."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tests.clinic import Clinic, heart, model_that_predicts, scored_rows, start_of
from tests.federations import Federation

from consortium.client.questions import FURTHER, Questions
from consortium.core.errors import Refused
from consortium.core.json_files import read_json_object
from consortium.core.site_policy import HOME
from consortium.protocol.metrics import Metrics, Score
from consortium.tasks.measurement import Measured, ScoredGroup

SCORED = 13


@pytest.fixture
def clinic(tmp_path):
    """Thirteen validation patients, at least five of each class."""
    made = Clinic(tmp_path, patients=53, validation=SCORED, seed=1)
    for number, row in enumerate(list(made.rows.values())[-SCORED:]):
        row["num"] = "0" if number % 2 else "3"
    made.write()
    return made


def random_models(clinic, settings, count, seed=0):
    """Models whose predictions differ in many patients."""
    inputs, _ = scored_rows(clinic, settings)
    chosen = np.random.default_rng(seed).integers(0, 2, (count, SCORED)).astype(bool)
    return [model_that_predicts(inputs, predictions, settings) for predictions in chosen]


def measured(*values, patients=None):
    values = np.array(values, float)
    names = tuple(patients or (f"P{number}" for number in range(len(values))))
    group = ScoredGroup(subject="hits", figures=("accuracy",), values=values)
    score = Score(patients=len(values), figures={"accuracy": float(values.mean())})
    return Measured(0.0, score, names, (group,))


def test_chosen_models_do_not_tell_a_patients_outcome(clinic):
    """The attack: one model calls nobody ill, each further one a single patient whom it knows."""
    settings = heart("rounds=20")
    inputs, outcomes = scored_rows(clinic, settings)
    trainer = clinic.open(settings)
    nobody = np.zeros(SCORED, bool)
    asked = [nobody, *np.eye(SCORED, dtype=bool)]
    scores = [
        trainer.validate(model_that_predicts(inputs, predictions, settings)).validation
        for predictions in asked
    ]
    accuracy = [score.figures["accuracy"] for score in scores]
    told = [value > accuracy[0] for value in accuracy[1:]]
    assert sum(outcomes) > 4  # whoever guesses that nobody is ill
    assert not any(told)
    assert len({score.model_dump_json() for score in scores}) == 1


def test_a_filler_between_two_near_models_does_not_help(clinic):
    settings = heart("rounds=20")
    inputs, _ = scored_rows(clinic, settings)
    trainer = clinic.open(settings)
    nobody, everybody, one = np.zeros(SCORED, bool), np.ones(SCORED, bool), np.eye(SCORED) > 0
    first, filler, near = (
        trainer.validate(model_that_predicts(inputs, chosen, settings)).validation
        for chosen in (nobody, everybody, one[3])
    )
    assert filler.figures["accuracy"] != first.figures["accuracy"]
    assert near.figures == first.figures


def test_a_run_has_as_many_models_scored_as_rounds_and_a_few_more(clinic):
    settings = heart("rounds=3")
    models = random_models(clinic, settings, 3 + FURTHER + 4)
    trainer = clinic.open(settings)
    first = [trainer.validate(model) for model in models[: 3 + FURTHER]]
    for model in models[3 + FURTHER :]:
        with pytest.raises(Refused) as refusal:
            trainer.validate(model)
        assert refusal.value.code == "too-many-questions"
    update = trainer.train(models[-1], 0)  # the training goes on
    assert update.metrics.validation == Score(withheld="too many questions")
    assert any(bool(tensor.any()) for tensor in update.tensors.values())
    again = clinic.open(settings)  # as after a restart, or in a resumed run
    repeated = [again.validate(model).validation for model in models[: 3 + FURTHER]]
    assert repeated == [metrics.validation for metrics in first]
    other = clinic.open(settings, "another-run")
    assert other.validate(models[-1]).validation.figures is not None


def test_a_data_set_has_a_budget_over_all_runs(clinic):
    settings = heart("rounds=3")
    models = random_models(clinic, settings, 8)
    budget = {"columns": "all", "questions": 5}
    for number, model in enumerate(models[:5]):
        clinic.open(settings, f"run-{number % 2}", **budget).validate(model)
    refused = clinic.open(settings, "run-2", **budget)
    with pytest.raises(Refused, match="too-many-questions"):
        refused.validate(models[5])
    assert refused.train(models[6], 0).metrics.validation.withheld == "too many questions"
    first = clinic.open(settings, "run-0", **budget).validate(models[0]).validation
    assert first.figures is not None  # answered before, and not counted twice


def test_a_hospital_may_report_no_score_at_all(clinic):
    settings = heart()
    trainer = clinic.open(settings, columns="all", questions=0)
    nothing = Score(withheld="too many questions")
    assert trainer.validate(start_of(settings)).validation == nothing
    assert trainer.train(start_of(settings), 0).metrics.validation == nothing
    assert trainer.train_local(start_of(settings), 1).validation == nothing


def test_trainings_beside_the_run_report_no_score(clinic):
    settings = heart()
    trainer = clinic.open(settings)
    assert trainer.train(start_of(settings), 0, keep=False).metrics.validation is None


def test_a_resumed_run_repeats_its_answers_and_counts_them_once(clinics, light, tmp_path):
    settings = light("rounds=3", "training.local_steps=5")
    whole = Federation(clinics, tmp_path / "whole", settings, ("north", "valley"), 5)
    resumed = Federation(clinics, tmp_path / "resumed", settings, ("north", "valley"), 5)
    resumed.open()
    resumed.start()  # killed while round 0 was open
    resumed.round()
    resumed.open()
    resumed.start()
    results = [federation.rest() for federation in (whole, resumed)]
    scores = [
        {name: metrics["validation"] for name, metrics in result["final"]["metrics"].items()}
        for result in results
    ]
    assert scores[0] == scores[1]
    assert results[0]["model_sha256"] == results[1]["model_sha256"]
    for folder in ("whole", "resumed"):
        home = tmp_path / folder / "state" / "north" / HOME
        assert read_json_object(home / "questions" / "tabular.json")["asked"] == 4


def test_jobs_at_once_share_one_budget(clinic):
    site = clinic.site(columns="all", questions=20)
    rows = np.random.default_rng(3).integers(0, 2, (60, 40))

    def ask(number):
        own = clinic.site(f"run-{number % 12}", columns="all", questions=20)
        try:
            return Questions(own, heart("rounds=3")).score(str(number), measured(*rows[number]))
        except Refused:
            return None

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(len(rows))))
    assert sum(answer is not None for answer in answers) == 20
    assert len(list((site.home / "questions" / "tabular").glob("answer-*.json"))) == 20


def test_a_figure_is_repeated_until_enough_patients_have_changed(clinic):
    questions = Questions(clinic.site(), heart("rounds=20"))
    right = np.ones(20)

    def accuracy(name, wrong):
        values = right.copy()
        values[list(wrong)] = 0
        return questions.score(name, measured(*values)).figures["accuracy"]

    assert accuracy("a", []) == 1.0
    assert accuracy("b", range(4)) == 1.0
    assert accuracy("c", range(5)) == 0.75
    assert accuracy("d", range(10, 15)) == 0.75
    assert accuracy("e", range(15, 19)) == 1.0  # far from the last one, near the first


def test_other_patients_are_compared_with_none_of_before(clinic):
    questions = Questions(clinic.site(), heart("rounds=20"))
    assert questions.score("a", measured(*[1] * 10)).figures["accuracy"] == 1.0
    others = [f"Q{number}" for number in range(10)]
    later = questions.score("b", measured(*[1] * 8, 0, 0, patients=others))
    assert later.figures["accuracy"] == 0.8


def test_the_probe_is_answered_for_one_model_of_a_run(clinic):
    questions = Questions(clinic.site(), heart("rounds=20"))
    statistics = Metrics.model_validate({"confounding": {"shares": {"a": 7}}})
    other = Metrics.model_validate({"confounding": {"shares": {"a": 8}}})
    assert questions.probe("a", statistics) == statistics
    assert questions.probe("a", other) == statistics
    with pytest.raises(Refused, match="too-many-questions"):
        questions.probe("b", statistics)


def test_a_score_whose_predictions_are_not_known_is_not_reported(clinic):
    questions = Questions(clinic.site(), heart())
    with pytest.raises(ValueError, match="a figure belongs to no group"):
        questions.score("a", measured(1, 0)._replace(groups=()))
