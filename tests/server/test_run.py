"""The rounds of a run, with hospitals that train."""

import json
from dataclasses import replace

import pytest
import torch
from tests.federations import NAMES, Federation

from consortium.core.errors import Failure, Incomplete
from consortium.protocol.metrics import Score
from consortium.protocol.requests import VALIDATE
from consortium.protocol.update import UpdateRefused
from consortium.report.__main__ import render_run
from consortium.server.evaluations import FINAL


def nan_from(name):
    def spoil(update):
        if update.hospital == name:
            next(iter(update.tensors.values())).view(-1)[0] = torch.nan
        return update

    return spoil


def test_a_refused_update_leaves_the_others_and_makes_the_run_incomplete(generated, tmp_path, tiny):
    federation = Federation(generated, tmp_path, tiny("rounds=3"), minimum=2)
    federation.round(spoil=nan_from("valley"))
    assert all(bool(t.isfinite().all()) for t in federation.state.model.values())
    result = federation.rest()
    assert not result["complete"]
    assert result["reason"].startswith("valley is missing from round 1 (not-finite ")


def test_a_hospital_that_fails_is_named_with_its_code(generated, tmp_path, tiny):
    federation = Federation(generated, tmp_path, tiny("rounds=3"), minimum=2)
    assert federation.open(NAMES[:2]) == dict.fromkeys(NAMES[:2])
    federation.run.submit(Failure("valley", "missing-file"))
    federation.run.close_round()
    result = federation.rest()
    assert result["reason"] == "valley is missing from round 1 (missing-file)"


def test_a_seeded_choice_of_hospitals_a_round_is_a_complete_run(generated, tmp_path, tiny):
    federation = Federation(generated, tmp_path, tiny("rounds=4"), clients_per_round=2)
    while federation.state.rounds_done < 4:
        federation.round()
    result = federation.rest()
    assert (result["complete"], result["reason"]) == (True, "")
    asked = [tuple(record.asked) for record in federation.state.run.records]
    assert all(len(names) == 2 for names in asked)
    assert {name for names in asked for name in names} == set(NAMES)


def test_a_round_that_nobody_answers_aggregates_nothing(federation):
    federation.run.open_round()
    before = federation.state.model
    federation.run.submit(UpdateRefused("north", "malformed"))
    with pytest.raises(Incomplete, match="north malformed"):
        federation.run.close_round()
    assert federation.state.model is before
    result = federation.finish("nobody answered")
    assert not result["complete"]
    assert result["reason"].startswith("nobody answered; 0 of 3 rounds were done")
    assert [row["federated"] for row in result["hospitals"]] == [None] * 3
    render_run(federation.folder / "results")
    assert "No round was closed" in (federation.folder / "results" / "report.html").read_text()


def test_a_study_gains_a_hospital_when_it_goes_on(generated, tmp_path, tiny):
    for names in (NAMES[:2], NAMES):
        federation = Federation(generated, tmp_path, tiny("rounds=4"), names)
        for _ in range(2):
            federation.round()
    result = federation.rest()
    assert (result["complete"], result["reason"]) == (True, "")
    lines = (tmp_path / "results" / "rounds.jsonl").read_text().splitlines()
    assert [json.loads(line)["answered"] for line in lines] == [list(NAMES[:2])] * 2 + [
        list(NAMES)
    ] * 2
    assert [row["name"] for row in result["hospitals"]] == list(NAMES)


def test_it_stops_early_where_the_job_says_so(generated, tmp_path, tiny):
    settings = tiny(
        "rounds=6",
        "selection.patience=1",
        'selection.keep="best"',
        "training.learning_rate=1e-12",
    )
    federation = Federation(generated, tmp_path, settings)
    scores = iter([0.5, 0.4, 0.3])

    def set_score(update):
        if update.hospital == NAMES[0]:
            federation.value = next(scores)
        figures = {"tumour": federation.value}
        score = update.metrics.validation.model_copy(update={"figures": figures})
        metrics = update.metrics.model_copy(update={"validation": score})
        return type(update)(
            **{name: getattr(update, name) for name in update.__slots__} | {"metrics": metrics}
        )

    federation.round(spoil=set_score)
    assert not federation.state.run.stopped_early
    federation.round(spoil=set_score)
    assert federation.state.run.stopped_early
    answers = federation.answers(VALIDATE, federation.state.model)
    federation.evaluations.record(FINAL, answers)
    result = federation.finish()
    assert (result["complete"], result["rounds"]) == (True, 2)


def claim(scores):
    """Has hospitals claim a score, and over how many validation patients."""

    def spoil(update):
        value, patients = scores[update.hospital]
        score = Score(patients=patients, figures={"tumour": value})
        return replace(update, metrics=update.metrics.model_copy(update={"validation": score}))

    return spoil


def test_a_claim_of_a_perfect_start_does_not_keep_the_untrained_model(generated, tmp_path, tiny):
    settings = tiny("rounds=5", 'selection.keep="best"')
    federation = Federation(generated, tmp_path, settings)
    scores = [0.0, 0.3, 0.5, 0.6, 0.6]
    for number, value in enumerate(scores):
        claims = {"valley": (1.0, 100_000) if number == 0 else (0.6, 2)}
        federation.round(spoil=claim({"harbour": (value, 2), "north": (value, 2), **claims}))
    result = federation.finish()
    assert result["best_round"] == 4
    assert federation.state.run.records[0].score == pytest.approx(1 / 3)
    [flagged] = result["flagged"]
    assert (flagged["hospital"], flagged["parted"]) == ("valley", 4)


def test_a_hospital_that_is_refused_round_after_round_is_not_asked_any_more(
    generated, tmp_path, tiny
):
    federation = Federation(generated, tmp_path, tiny("rounds=5"), minimum=2, max_attempts=2)
    federation.spoil = lambda name, answer: nan_from("valley")(answer)
    federation.federation.train(until=3)
    federation.start()  # it stays excluded in a run that is resumed
    federation.federation.train()
    records = federation.state.run.records
    assert [[r.code for r in record.refused] for record in records[:2]] == [["not-finite"]] * 2
    assert [record.failures for record in records[2:]] == [{"valley": "left-out"}] * 3
    assert all(record.answered == ["harbour", "north"] for record in records)
    assert all("valley" in record.asked for record in records)
    result = federation.finish()
    assert result["reason"].startswith("valley is missing from rounds 1 to 5 (not-finite ")
    assert [row["hospital"] for row in result["flagged"]] == ["valley"]


def test_100_000_refusals_of_a_round_are_few_bytes_of_its_record(federation):
    federation.open()
    for _ in range(100_000):
        federation.run.submit(UpdateRefused("valley", "malformed"))
    federation.run.close_round()
    federation.round()
    [refusal] = federation.state.run.records[0].refused
    assert (refusal.hospital, refusal.code, refusal.times) == ("valley", "malformed", 100_000)
    saved = sum(path.stat().st_size for path in federation.folder.rglob("*.json*"))
    assert saved < 100_000
