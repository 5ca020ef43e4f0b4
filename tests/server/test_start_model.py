"""The model that a job in a federation may start from."""

import os

import pytest
import torch
from safetensors.torch import save_file
from tests.federations import Federation

from consortium.core.errors import Refused
from consortium.models.networks import build_network
from consortium.orchestration.owners import Owner, claim_run
from consortium.server.start_model import StartModels

ADA, BOB = Owner("ada@a.example", "a"), Owner("bob@b.example", "b")


def save_model(path, settings, seed=3):
    state = build_network(settings, seed=seed).state_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return state


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def starts(tmp_path, tiny):
    """Loads what ada's job names."""
    (tmp_path / "offered").mkdir()
    models = StartModels(tmp_path / "offered", tmp_path / "runs", ADA)
    return lambda name, *more: models.load(tiny(f'model.from="{name}"', *more))


def refusal(starts, name):
    with pytest.raises(Refused) as refused:
        starts(name)
    return str(refused.value)


def test_an_offered_model_is_used(starts, tmp_path, tiny):
    state = save_model(tmp_path / "offered" / "deep" / "m.safetensors", tiny())
    for name in ("deep/m.safetensors", tmp_path / "offered" / "deep" / "m.safetensors"):
        assert equal(starts(name), state)


def test_an_offered_model_that_does_not_fit_says_why(starts, tmp_path, tiny):
    save_model(tmp_path / "offered" / "m.safetensors", tiny("network.features=[8,16]"))
    answer = refusal(starts, "m.safetensors")
    assert answer.startswith("error wrong-architecture: tensor ")
    assert str(tmp_path) not in answer


def test_one_answer_whatever_is_there(starts, tmp_path, tiny):
    """What a job names outside of what it may use tells nothing about the orchestrator's files."""
    settings = tiny()
    save_model(tmp_path / "runs" / "r1" / "checkpoints" / "model-000001.safetensors", settings)
    save_model(tmp_path / "offered2" / "m.safetensors", settings)
    save_model(tmp_path / "secret.safetensors", tiny("network.features=[8,16]"))
    (tmp_path / "offered" / "text.txt").write_text("no model")
    (tmp_path / "offered" / "out.safetensors").symlink_to(tmp_path / "secret.safetensors")
    (tmp_path / "offered" / "loop").symlink_to(tmp_path / "offered" / "loop")
    os.mkfifo(tmp_path / "fifo.safetensors")
    names = [
        "/etc/shadow",
        "/etc/none",
        "/dev/zero",
        "missing.safetensors",
        "text.txt",
        "out.safetensors",
        "loop",
        "../secret.safetensors",
        "../offered2/m.safetensors",
        "../runs/r1/checkpoints/model-000001.safetensors",
        tmp_path / "fifo.safetensors",
        tmp_path / "secret.safetensors",
        tmp_path / "runs" / "r1" / "checkpoints" / "model-000001.safetensors",
        "run:r1",
        "run:none",
        "run:../offered2",
        "run:",
        "nul\\u0000",
        "x" * 5000,
    ]
    answers = {refusal(starts, name) for name in names}
    assert len(answers) == 1
    assert answers.pop().startswith("error no-start-model: there is no such model")


def test_without_a_folder_nothing_is_offered(tmp_path, tiny):
    save_model(tmp_path / "m.safetensors", tiny())
    models = StartModels(None, tmp_path / "runs", ADA)
    for name in (tmp_path / "m.safetensors", "m.safetensors", "/etc/shadow"):
        with pytest.raises(Refused, match="no-start-model"):
            models.load(tiny(f'model.from="{name}"'))


@pytest.mark.parametrize(
    "keep",
    [["best"], ["last"], ["average", "selection.share=1.0"]],
)
def test_a_run_is_started_from_by_its_submitter_only(generated, tmp_path, tiny, keep):
    settings = tiny("rounds=2", f"selection.keep={keep[0]}", *keep[1:])
    federation = Federation(generated, tmp_path / "runs" / "r1", settings)
    federation.federation.train()
    claim_run(tmp_path / "runs" / "r1", ADA)
    kept = federation.run.checkpoints.kept_model(federation.state)
    after = tiny("model.from=run:r1")
    assert equal(StartModels(None, tmp_path / "runs", ADA).load(after), kept)
    with pytest.raises(Refused, match="no-start-model"):
        StartModels(None, tmp_path / "runs", BOB).load(after)
    other = tiny("model.from=run:r1", "network.features=[8,16]")
    with pytest.raises(Refused, match="wrong-architecture"):
        StartModels(None, tmp_path / "runs", ADA).load(other)
