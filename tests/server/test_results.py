"""The results of a run."""

import json

import torch
from safetensors.torch import load_file
from tests.federations import NAMES, Federation

from consortium.protocol.requests import VALIDATE
from consortium.report.__main__ import render_run
from consortium.server.rendering import render


def test_a_run_in_which_all_take_part_is_complete_and_leaves_everything(federation):
    result = federation.rest()
    assert (result["complete"], result["reason"], result["rounds"]) == (True, "", 3)
    assert render(federation.folder / "results") == ""
    left = {path.name for path in (federation.folder / "results").iterdir()}
    assert left >= {"result.json", "rounds.jsonl", "report.html", "model", "tensorboard"}
    records = [
        json.loads(line)
        for line in (federation.folder / "results" / "rounds.jsonl").read_text().splitlines()
    ]
    assert [record["round"] for record in records] == [0, 1, 2]
    assert all(record["answered"] == list(NAMES) for record in records)
    # Each round starts from the result of the one before.
    assert [r["base_sha256"] for r in records[1:]] == [r["result_sha256"] for r in records[:-1]]
    rows = {row["name"]: row for row in result["hospitals"]}
    assert set(rows) == set(NAMES)
    assert all(row["cases"]["training"] > 0 for row in rows.values())
    assert all(0 <= row["federated"]["figures"]["tumour"] <= 1 for row in rows.values())


def test_the_run_leaves_the_mean_of_its_last_models(generated, tmp_path, tiny):
    settings = tiny("rounds=4", "selection.share=0.5")
    federation = Federation(generated, tmp_path, settings)
    models = []
    for _ in range(4):
        federation.round()
        models.append(federation.state.model)
    result = federation.rest()
    left = load_file(tmp_path / "results" / "model" / "models" / "model.safetensors")
    for name, tensor in left.items():
        third, fourth = models[2][name], models[3][name]
        if tensor.is_floating_point():
            assert torch.equal(tensor, ((third.double() + fourth.double()) / 2).float())
        else:
            assert torch.equal(tensor, fourth)
    assert any(not torch.equal(tensor, models[3][name]) for name, tensor in left.items())
    # The hospitals scored the model that is in the results.
    scored = federation.answers(VALIDATE, left, ["north"])["north"].validation
    assert result["final"]["metrics"]["north"]["validation"]["figures"] == scored.figures


def test_a_hospital_that_is_held_back_round_after_round_is_named(generated, tmp_path, tiny):
    federation = Federation(generated, tmp_path, tiny("rounds=3", "aggregation=norm_clipping"))

    def push(update):
        if update.hospital == "valley":
            for tensor in update.tensors.values():
                tensor.mul_(1000)
        return update

    for _ in range(3):
        federation.round(spoil=push)
    result = federation.rest()
    [named] = result["flagged"]
    assert (named["hospital"], named["rounds"], named["held_back"]) == ("valley", 3, 3)
    assert named["kept"] < 0.05
    assert named["distance"] > 3
    lines = (tmp_path / "results" / "rounds.jsonl").read_text().splitlines()
    treatment = json.loads(lines[0])["treatment"]
    assert treatment["valley"]["kept"] < 0.05 < 0.5 < treatment["north"]["kept"]
    render_run(tmp_path / "results")
    page = (tmp_path / "results" / "report.html").read_text()
    assert "valley was held back in 3 of 3 rounds: its update counted for " in page
    assert f"{named['distance']:,.0f} times as far from the aggregate as others" in page


def test_a_run_that_is_broken_off_leaves_the_last_aggregate(federation):
    federation.round()
    federation.round()
    result = federation.finish("stopped by a person")
    assert (result["rounds"], result["best_round"]) == (2, 2)
    left = load_file(federation.folder / "results" / "model" / "models" / "model.safetensors")
    last = federation.state.model
    assert all(torch.equal(left[name], tensor) for name, tensor in last.items())
    assert [row["federated"] for row in result["hospitals"]] == [None] * 3
