"""A whole run without FLARE: the coordinator and hospitals in a loop."""

import dataclasses
import errno
import json

import pytest
import torch
from safetensors.torch import load_file

from consortium.client.trainer import LocalTrainer
from consortium.core import files
from consortium.core.errors import EnvironmentProblem, Failure, Incomplete, Refused
from consortium.core.site_policy import Site
from consortium.orchestration.quorum import declare_quorum
from consortium.orchestration.rounds import choose
from consortium.protocol.metrics import Metrics, Score
from consortium.protocol.update import UpdateRefused
from consortium.server.run import ALONE, FINAL, Coordinator, Study

CPU = torch.device("cpu")
NAMES = ("harbour", "north", "valley")


class Federation:
    """Hospitals in memory, and a coordinator that can be killed and started again."""

    def __init__(self, generated, folder, settings, **declared):
        self.folder, self.settings, self.declared = folder, settings, declared
        self.hospitals = {
            name: LocalTrainer(
                Site(name, generated / name, folder / "state" / name, smallest_group=1),
                settings,
                device=CPU,
            )
            for name in NAMES
        }
        self.start()

    def start(self):
        self.coordinator = Coordinator(
            Study("run", "job", declare_quorum(NAMES, self.declared), self.settings),
            results=self.folder / "results",
            checkpoints=self.folder / "checkpoints",
        )

    def round(self, spoil=lambda update: update, order=NAMES):
        number, _ = self.coordinator.open_round()
        for name in order:
            update = self.hospitals[name].train(self.coordinator.model, number)
            self.coordinator.submit(spoil(update))
        self.coordinator.close_round()

    def rest(self):
        while self.coordinator.rounds_done < self.settings.rounds:
            self.round()
        model = self.coordinator.final_model
        answers = {name: hospital.validate(model) for name, hospital in self.hospitals.items()}
        self.coordinator.answer(FINAL, answers)
        return self.coordinator.finish()


@pytest.fixture
def federation(generated, tmp_path, tiny):
    return Federation(generated, tmp_path, tiny("rounds=3"))


def test_a_run_in_which_all_take_part_is_complete_and_leaves_everything(federation):
    result = federation.rest()
    assert (result["complete"], result["reason"], result["rounds"]) == (True, "", 3)
    left = {path.name for path in (federation.folder / "results").iterdir()}
    assert left >= {"result.json", "rounds.jsonl", "report.html", "model", "tensorboard"}
    records = [
        json.loads(line)
        for line in (federation.folder / "results" / "rounds.jsonl").read_text().splitlines()
    ]
    assert [record["round"] for record in records] == [0, 1, 2]
    assert all(record["answered"] == list(NAMES) for record in records)
    # Each round starts from what the one before left.
    assert [r["base_sha256"] for r in records[1:]] == [r["result_sha256"] for r in records[:-1]]
    rows = {row["name"]: row for row in result["hospitals"]}
    assert set(rows) == set(NAMES)
    assert all(row["cases"]["training"] > 0 for row in rows.values())
    assert all(0 <= row["federated"]["figures"]["tumour"] <= 1 for row in rows.values())


@pytest.mark.parametrize(
    "assignments",
    [
        ["selection.keep=average", "selection.share=1.0"],
        ["selection.keep=last"],
        ["server.momentum=0.5", "server.learning_rate=0.9"],
        ['server.adaptive={"method": "yogi"}', "server.momentum=0.9", "server.learning_rate=0.01"],
        ["aggregation=geometric_median"],
    ],
)
def test_a_run_that_is_killed_after_a_round_ends_with_the_same_bytes(
    generated, tmp_path, tiny, assignments
):
    settings = tiny("rounds=3", *assignments)
    undisturbed = Federation(generated, tmp_path / "a", settings).rest()
    killed = Federation(generated, tmp_path / "b", settings)
    killed.round()
    killed.start()
    assert killed.coordinator.rounds_done == 1
    killed.round(order=NAMES[::-1])
    killed.coordinator.open_round()  # killed in the middle of a round
    killed.start()
    resumed = killed.rest()
    assert resumed["complete"]
    assert resumed["model_sha256"] == undisturbed["model_sha256"]
    assert resumed["hospitals"] == undisturbed["hospitals"]


def test_the_run_leaves_the_mean_of_its_last_models(generated, tmp_path, tiny):
    settings = tiny("rounds=4", "selection.share=0.5")
    federation = Federation(generated, tmp_path, settings)
    models = []
    for _ in range(4):
        federation.round()
        models.append(federation.coordinator.model)
    result = federation.rest()
    left = load_file(tmp_path / "results" / "model" / "models" / "model.safetensors")
    for name, tensor in left.items():
        third, fourth = models[2][name], models[3][name]
        if tensor.is_floating_point():
            assert torch.equal(tensor, ((third.double() + fourth.double()) / 2).float())
        else:
            assert torch.equal(tensor, fourth)
    assert any(not torch.equal(tensor, models[3][name]) for name, tensor in left.items())
    # What the hospitals scored is what the run leaves.
    scored = federation.hospitals["north"].validate(left).validation
    assert result["final"]["metrics"]["north"]["validation"]["figures"] == scored.figures


def nan_from(name):
    def spoil(update):
        if update.hospital == name:
            next(iter(update.tensors.values())).view(-1)[0] = torch.nan
        return update

    return spoil


def test_a_refused_update_leaves_the_others_and_makes_the_run_incomplete(generated, tmp_path, tiny):
    federation = Federation(generated, tmp_path, tiny("rounds=3"), minimum=2)
    federation.round(spoil=nan_from("valley"))
    assert all(bool(t.isfinite().all()) for t in federation.coordinator.model.values())
    result = federation.rest()
    assert not result["complete"]
    assert result["reason"].startswith("valley is missing from round 1 (not-finite ")


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
    page = (tmp_path / "results" / "report.html").read_text()
    assert "valley was held back in 3 of 3 rounds: its change counted for " in page
    assert f"{named['distance']:,.0f} times as far from the aggregate as others" in page


def test_a_hospital_that_fails_is_named_with_its_code(generated, tmp_path, tiny):
    federation = Federation(generated, tmp_path, tiny("rounds=3"), minimum=2)
    number, _ = federation.coordinator.open_round()
    for name in NAMES[:2]:
        update = federation.hospitals[name].train(federation.coordinator.model, number)
        assert federation.coordinator.submit(update) is None
    federation.coordinator.submit(Failure("valley", "missing-file"))
    federation.coordinator.close_round()
    result = federation.rest()
    assert result["reason"] == "valley is missing from round 1 (missing-file)"


def test_a_seeded_choice_of_hospitals_a_round_is_a_complete_run(generated, tmp_path, tiny):
    federation = Federation(generated, tmp_path, tiny("rounds=4"), clients_per_round=2)
    while federation.coordinator.rounds_done < 4:
        number, _ = federation.coordinator.open_round()
        for name in choose(federation.coordinator.quorum, 0, number):
            federation.coordinator.submit(
                federation.hospitals[name].train(federation.coordinator.model, number)
            )
        federation.coordinator.close_round()
    result = federation.rest()
    assert (result["complete"], result["reason"]) == (True, "")
    asked = [tuple(record.asked) for record in federation.coordinator.run.records]
    assert all(len(names) == 2 for names in asked)
    assert {name for names in asked for name in names} == set(NAMES)


def test_a_round_that_nobody_answers_aggregates_nothing(federation):
    federation.coordinator.open_round()
    before = federation.coordinator.model
    federation.coordinator.submit(UpdateRefused("north", "malformed"))
    with pytest.raises(Incomplete, match="north malformed"):
        federation.coordinator.close_round()
    assert federation.coordinator.model is before
    result = federation.coordinator.finish("nobody answered")
    assert not result["complete"]
    assert result["reason"].startswith("nobody answered; 0 of 3 rounds were done")
    assert [row["federated"] for row in result["hospitals"]] == [None] * 3
    assert "No round was closed" in (federation.folder / "results" / "report.html").read_text()


def test_a_full_disk_stops_the_run_with_the_last_round_safe(federation, monkeypatch):
    federation.round()
    checkpoints = federation.folder / "checkpoints"
    before = {path.name: path.read_bytes() for path in checkpoints.iterdir()}
    replace_file = files.replace_file

    def full(path, write):
        def write_half(beside):
            beside.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

        replace_file(path, write_half if path.suffix == ".safetensors" else write)

    monkeypatch.setattr("consortium.orchestration.checkpoints.replace_file", full)
    with pytest.raises(EnvironmentProblem, match="disk-full"):
        federation.round()
    assert {path.name: path.read_bytes() for path in checkpoints.iterdir()} == before
    monkeypatch.undo()
    federation.start()
    assert federation.coordinator.rounds_done == 1
    assert federation.rest()["complete"]


def test_a_run_that_is_broken_off_leaves_the_last_aggregate(federation):
    federation.round()
    federation.round()
    result = federation.coordinator.finish("stopped by a person")
    assert (result["rounds"], result["best_round"]) == (2, 2)
    left = load_file(federation.folder / "results" / "model" / "models" / "model.safetensors")
    last = federation.coordinator.model
    assert all(torch.equal(left[name], tensor) for name, tensor in last.items())
    assert [row["federated"] for row in result["hospitals"]] == [None] * 3


def test_a_round_that_could_not_be_journalled_is_not_claimed(federation, monkeypatch):
    federation.round()

    def full(path, write):
        raise EnvironmentProblem("disk-full", "no space left")

    monkeypatch.setattr("consortium.orchestration.checkpoints.replace_file", full)
    with pytest.raises(EnvironmentProblem):
        federation.round()
    monkeypatch.undo()
    result = federation.coordinator.finish("disk-full: no space left")
    assert result["rounds"] == 1
    assert len((federation.folder / "results" / "rounds.jsonl").read_text().splitlines()) == 1


def test_a_metric_that_is_not_the_jobs_is_no_answer(federation):
    federation.round()
    strange = Metrics(validation=Score(patients=7, figures={"Jane Doe": 0.5}))
    told = federation.coordinator.answer(FINAL, {"north": strange})
    assert told == {}
    result = federation.coordinator.finish()
    assert "north (wrong-metrics)" in result["reason"]
    assert "Jane" not in json.dumps(result)


def test_a_model_of_a_site_that_the_study_does_not_declare_is_not_taken(federation):
    federation.round()
    number = federation.coordinator.rounds_done
    update = federation.hospitals["north"].train(federation.coordinator.model, number)
    assert federation.coordinator.local_model(update) is not None
    assert federation.coordinator.local_model(dataclasses.replace(update, hospital="x")) is None


def test_a_journal_of_other_settings_is_refused(federation, tiny):
    federation.round()
    federation.settings = tiny("rounds=3", "training.batch=3")
    with pytest.raises(Refused, match="other-run"):
        federation.start()


def test_a_torn_model_in_the_journal_is_noticed(federation):
    federation.round()
    newest = max((federation.folder / "checkpoints").glob("model-*.safetensors"))
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(bytes(content))
    with pytest.raises(Refused, match="bad-checkpoints"):
        federation.start()


def test_after_a_torn_entry_the_round_before_is_used_and_the_run_ends_with_the_same_bytes(
    generated, tmp_path, tiny
):
    undisturbed = Federation(generated, tmp_path / "a", tiny("rounds=3")).rest()
    federation = Federation(generated, tmp_path / "b", tiny("rounds=3"))
    federation.round()
    federation.round()
    newest = max((federation.folder / "checkpoints").glob("model-*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-1])
    federation.start()
    assert federation.coordinator.rounds_done == 1
    result = federation.rest()
    assert (result["complete"], result["model_sha256"]) == (True, undisturbed["model_sha256"])
    assert result["notes"] == [
        "checkpoint-000002.json is left out: model-000002.safetensors is not as it was written"
    ]


@pytest.mark.parametrize("rounds", [4, 12])
def test_a_finished_run_is_extended_by_more_rounds(generated, tmp_path, tiny, rounds):
    federation = Federation(generated, tmp_path, tiny("rounds=3", "selection.share=0.5"))
    first = federation.rest()
    federation.settings = tiny(f"rounds={rounds}", "selection.share=0.5")
    federation.start()
    assert federation.coordinator.rounds_done == 3
    result = federation.rest()
    assert (result["complete"], result["rounds"]) == (True, rounds)
    assert result["model_sha256"] != first["model_sha256"]
    averaged = federation.coordinator._averaged
    assert averaged == {4: 3, 12: 6}[rounds]


def test_a_study_gains_a_hospital_when_it_goes_on(generated, tmp_path, tiny):
    federation = Federation(generated, tmp_path, tiny("rounds=4"))
    for names in (NAMES[:2], NAMES):
        federation.coordinator = Coordinator(
            Study("run", "job", declare_quorum(names, {}), federation.settings),
            results=tmp_path / "results",
            checkpoints=tmp_path / "checkpoints",
        )
        for _ in range(2):
            federation.round(order=names)
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

    def say(update):
        if update.hospital == NAMES[0]:
            federation.value = next(scores)
        said = update.metrics.validation.model_copy(
            update={"figures": {"tumour": federation.value}}
        )
        metrics = update.metrics.model_copy(update={"validation": said})
        return type(update)(
            **{name: getattr(update, name) for name in update.__slots__} | {"metrics": metrics}
        )

    federation.round(spoil=say)
    assert not federation.coordinator.run.stopped_early
    federation.round(spoil=say)
    assert federation.coordinator.run.stopped_early
    model = federation.coordinator.model
    federation.coordinator.answer(
        FINAL, {name: h.validate(model) for name, h in federation.hospitals.items()}
    )
    result = federation.coordinator.finish()
    assert (result["complete"], result["rounds"]) == (True, 2)


def test_a_missing_answer_to_the_baseline_is_told(federation):
    federation.coordinator.answer(ALONE, {"north": Failure("north", "internal-error")})
    result = federation.rest()
    assert (
        "no answer to the baseline from harbour (no answer), north (internal-error)"
        in (result["reason"])
    )


def test_it_starts_from_a_model_and_refuses_one_of_another_architecture(
    federation, generated, tmp_path, tiny
):
    federation.rest()
    model = federation.folder / "results" / "model"
    again = Federation(generated, tmp_path / "again", tiny(f'model.from="{model}"'))
    assert not all(
        torch.equal(again.coordinator.model[name], tensor)
        for name, tensor in Federation(generated, tmp_path / "c", tiny()).coordinator.model.items()
    )
    with pytest.raises(Refused, match="wrong-architecture"):
        Federation(
            generated, tmp_path / "d", tiny(f'model.from="{model}"', "network.features=[8,16]")
        )
