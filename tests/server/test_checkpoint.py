"""The state of a run that survives a kill."""

import errno
import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch
from tests.federations import NAMES, Federation

from consortium.core import files
from consortium.core.errors import EnvironmentProblem, Refused
from consortium.protocol.codec import digest
from consortium.server.checkpoint import RunCheckpoints
from consortium.server.state import model_file


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
    clinics, tmp_path, light, assignments
):
    settings = light("rounds=3", "training.local_steps=5", *assignments)
    undisturbed = Federation(clinics, tmp_path / "a", settings).rest()
    killed = Federation(clinics, tmp_path / "b", settings)
    killed.round()
    killed.start()
    assert killed.state.rounds_done == 1
    killed.round(names=NAMES[::-1])
    killed.run.open_round()  # killed in the middle of a round
    killed.start()
    resumed = killed.rest()
    assert resumed["complete"]
    assert resumed["model_sha256"] == undisturbed["model_sha256"]
    assert resumed["hospitals"] == undisturbed["hospitals"]


def test_a_full_disk_stops_the_run_with_the_last_round_safe(federation, monkeypatch):
    federation.round()
    checkpoints = federation.folder / "checkpoints"
    before = {path.name: path.read_bytes() for path in checkpoints.iterdir()}
    replace_file = files.replace_file

    def full(path, write, **more):
        def write_half(partial_path):
            partial_path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

        replace_file(path, write_half if path.suffix == ".safetensors" else write, **more)

    monkeypatch.setattr("consortium.orchestration.checkpoints.replace_file", full)
    with pytest.raises(EnvironmentProblem, match="disk-full"):
        federation.round()
    assert {path.name: path.read_bytes() for path in checkpoints.iterdir()} == before
    monkeypatch.undo()
    federation.start()
    assert federation.state.rounds_done == 1
    assert federation.rest()["complete"]


def test_a_round_that_could_not_be_saved_does_not_count(federation, monkeypatch):
    federation.round()

    def full(path, write, **more):
        raise EnvironmentProblem("disk-full", "no space left")

    monkeypatch.setattr("consortium.orchestration.checkpoints.replace_file", full)
    with pytest.raises(EnvironmentProblem):
        federation.round()
    monkeypatch.undo()
    result = federation.finish("disk-full: no space left")
    assert result["rounds"] == 1
    assert len((federation.folder / "results" / "rounds.jsonl").read_text().splitlines()) == 1


def test_a_checkpoint_of_other_settings_is_refused(federation, tiny):
    federation.round()
    federation.settings = tiny("rounds=3", "training.batch=3")
    with pytest.raises(Refused, match="other-run"):
        federation.start()


def test_torn_models_in_both_checkpoints_are_noticed(federation):
    federation.round()
    federation.round()
    for number in (1, 2):
        model = federation.folder / "checkpoints" / f"model-{number:06d}.safetensors"
        content = bytearray(model.read_bytes())
        content[-1] ^= 1
        model.write_bytes(bytes(content))
    with pytest.raises(Refused, match="bad-checkpoints"):
        federation.start()


DAMAGES = {
    "gone": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "bit": lambda path: path.write_bytes(
        path.read_bytes()[:9] + bytes([path.read_bytes()[9] ^ 4]) + path.read_bytes()[10:]
    ),
}


def praise(update, number):
    """The update; that of one round with a score of its base that no later model reaches."""
    if update.round != number:
        return update
    score = update.metrics.validation
    figures = dict.fromkeys(score.figures, 1.0)
    score = score.model_copy(update={"figures": figures})
    return replace(update, metrics=update.metrics.model_copy(update={"validation": score}))


@pytest.mark.parametrize(
    ("done", "best", "assignments"),
    [
        (1, 0, ["selection.keep=best", "server.momentum=0.5"]),
        (3, 1, ["selection.keep=best"]),
        (3, 2, ["selection.keep=best"]),
        (3, 3, ["selection.keep=average", "selection.share=1.0", "server.momentum=0.5"]),
    ],
)
def test_any_one_damaged_file_costs_a_round_at_most_and_no_byte(
    generated, tmp_path, tiny, assignments, done, best
):
    settings, run = tiny("rounds=4", *assignments), tmp_path / "run"
    federation = Federation(generated, run, settings)
    for _ in range(done):
        federation.round(spoil=partial(praise, number=best))
    assert federation.state.best_file == model_file(best)
    shutil.copytree(run, tmp_path / "kept")

    def end():
        federation.spoil = lambda name, answer: praise(answer, best)
        federation.federation.train()
        return digest(federation.run.checkpoints.kept_model(federation.state))

    expected, study = end(), federation.state.study
    names = sorted(path.name for path in (tmp_path / "kept" / "checkpoints").iterdir())
    for number, name in enumerate(names):
        for turn, (how, damage) in enumerate(DAMAGES.items()):
            shutil.rmtree(run)
            shutil.copytree(tmp_path / "kept", run)
            damage(run / "checkpoints" / name)
            # To the end once a file, each time with another damage.
            if turn == number % len(DAMAGES):
                federation.start()
                assert federation.state.rounds_done >= done - 1, (name, how)
                assert end() == expected, (name, how)
            else:
                state = RunCheckpoints(run / "checkpoints").load(study)
                assert state.rounds_done >= done - 1, (name, how)


def test_after_a_torn_checkpoint_the_round_before_is_used_and_the_run_ends_with_the_same_bytes(
    generated, tmp_path, tiny
):
    undisturbed = Federation(generated, tmp_path / "a", tiny("rounds=3")).rest()
    federation = Federation(generated, tmp_path / "b", tiny("rounds=3"))
    federation.round()
    federation.round()
    newest = max((federation.folder / "checkpoints").glob("model-*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-1])
    federation.start()
    assert federation.state.rounds_done == 1
    result = federation.rest()
    assert (result["complete"], result["model_sha256"]) == (True, undisturbed["model_sha256"])
    assert result["notes"] == [
        "checkpoint-000002.json is left out: model-000002.safetensors is not as it was written"
    ]


@pytest.mark.parametrize("rounds", [4, 12])
def test_a_finished_run_is_extended_by_more_rounds(clinics, tmp_path, light, rounds):
    few = ("training.local_steps=5", "selection.keep=average", "selection.share=0.5")
    federation = Federation(clinics, tmp_path, light("rounds=3", *few))
    first = federation.rest()
    federation.settings = light(f"rounds={rounds}", *few)
    federation.start()
    assert federation.state.rounds_done == 3
    result = federation.rest()
    assert (result["complete"], result["rounds"]) == (True, rounds)
    assert result["model_sha256"] != first["model_sha256"]
    averaged = federation.state.averaged
    assert averaged == {4: 3, 12: 6}[rounds]


def test_it_starts_from_a_model_and_refuses_one_of_another_architecture(
    federation, generated, tmp_path, tiny
):
    federation.rest()
    model = federation.folder / "results" / "model"
    again = Federation(generated, tmp_path / "again", tiny(f'model.from="{model}"'))
    assert not all(
        torch.equal(again.state.model[name], tensor)
        for name, tensor in Federation(generated, tmp_path / "c", tiny()).state.model.items()
    )
    with pytest.raises(Refused, match="wrong-architecture"):
        Federation(
            generated, tmp_path / "d", tiny(f'model.from="{model}"', "network.features=[8,16]")
        )
