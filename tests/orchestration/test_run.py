from consortium.orchestration.records import Refusal, RoundRecord
from consortium.orchestration.run import RunRecord

SCORE = {"patients": 5, "figures": {"tumour": 0.5}, "withheld": None}


def record(number, answered, **more):
    return RoundRecord(
        round=number,
        base_sha256="a",
        asked=["east", "north"],
        answered=answered,
        refused=more.pop("refused", []),
        result_sha256="b",
        metrics={name: {"validation": SCORE} for name in answered},
        **more,
    )


def finished(*records, rounds=None):
    run = RunRecord("r", "j", ["east", "north"], rounds or len(records), list(records))
    run.final = {"east": {"validation": None}, "north": {"validation": SCORE}}
    return run


def test_a_run_in_which_all_took_part_is_complete():
    assert finished(record(0, ["east", "north"]), record(1, ["east", "north"])).reason() == ""


def test_a_refused_hospital_is_named_with_code_and_tensor():
    refusal = Refusal("east", "w", "not-finite")
    run = finished(record(0, ["east", "north"]), record(1, ["north"], refused=[refusal]))
    assert run.reason() == "east is missing from round 2 (not-finite w)"


def test_a_failed_hospital_is_named_with_its_code():
    records = [record(k, ["north"], failures={"east": "missing-file"}) for k in range(2)]
    assert finished(*records).reason() == "east is missing from rounds 1 to 2 (missing-file)"


def test_a_run_that_ended_before_its_rounds_is_incomplete():
    run = finished(record(0, ["east", "north"]), rounds=3)
    assert run.reason() == "1 of 3 rounds were done"
    run.stopped_early = True
    assert run.reason() == ""


def test_trouble_and_missing_answers_are_reported():
    run = finished(record(0, ["east", "north"]))
    run.trouble = "disk-full: no space"
    run.missing = {"the final scoring": {"east": "no answer"}}
    assert (
        run.reason() == "disk-full: no space; no answer to the final scoring from east (no answer)"
    )


def test_a_run_whose_last_model_was_not_scored_is_incomplete():
    run = finished(record(0, ["east", "north"]))
    run.final = None
    assert run.reason() == "the last model was not scored"


def test_scores_belong_to_the_base_model_of_the_round():
    run = finished(record(0, ["east", "north"]))
    assert run.scores_of_model(0) == {"east": SCORE, "north": SCORE}
    assert run.scores_of_model(1) == {"east": None, "north": SCORE}
