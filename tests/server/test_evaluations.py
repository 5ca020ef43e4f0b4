import dataclasses
import json

from consortium.core.errors import Failure
from consortium.protocol.metrics import Metrics, Score
from consortium.protocol.requests import TRAIN
from consortium.server.evaluations import BASELINE, FINAL


def test_a_metric_that_is_not_the_jobs_is_no_answer(federation):
    federation.round()
    strange = Metrics(validation=Score(patients=7, figures={"Jane Doe": 0.5}))
    assert federation.evaluations.record(FINAL, {"north": strange}) == {}
    result = federation.finish()
    assert "north (wrong-metrics)" in result["reason"]
    assert "Jane" not in json.dumps(result)


def test_a_model_of_a_site_that_the_study_does_not_declare_is_not_taken(federation):
    federation.round()
    number = federation.state.rounds_done
    model = federation.state.model
    update = federation.answers(TRAIN, model, ["north"], round=number)["north"]
    assert federation.evaluations.local_model(update) is not None
    assert federation.evaluations.local_model(dataclasses.replace(update, hospital="x")) is None


def test_a_missing_answer_to_the_baseline_is_reported(federation):
    federation.evaluations.record(BASELINE, {"north": Failure("north", "internal-error")})
    result = federation.rest()
    assert (
        "no answer to the baseline from harbour (no answer), north (internal-error)"
        in (result["reason"])
    )
