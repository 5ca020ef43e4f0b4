"""A hospital's trainer in its own process: the same answers, and its recovery when it dies."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from tests.client.misbehaving import where
from tests.client.training_parent import PARENT

from consortium.client import process as process_module
from consortium.client.fork_server import ADDRESS
from consortium.client.process import Failed, Stopped, TrainerProcess
from consortium.client.shared_memory import SharedBuffers, open_memory
from consortium.client.trainer import LocalTrainer
from consortium.core.errors import Incomplete
from consortium.core.site_policy import ERRORS, Site, simulated_privacy
from consortium.models.networks import build_network
from consortium.protocol.codec import pack
from consortium.protocol.metrics import Metrics
from consortium.protocol.update import update_from_wire

OURS = "consortium.client.trainer:LocalTrainer"


@pytest.fixture(autouse=True, scope="module")
def spawned():
    """Trainers are spawned, as at a hospital."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(ADDRESS, raising=False)
        yield


@pytest.fixture
def site(clinics, tmp_path):
    (tmp_path / "state").mkdir()
    return Site(
        "north",
        clinics / "north",
        tmp_path / "state",
        smallest_group=1,
        privacy=simulated_privacy(1),
    )


@pytest.fixture(scope="module")
def settings(light):
    return light("training.local_steps=20", "rounds=3")


@pytest.fixture(scope="module")
def base(settings):
    return build_network(settings, seed=1).state_dict()


@pytest.fixture(scope="module")
def calm(clinics, settings, tmp_path_factory):
    """A trainer that is never disturbed."""
    state = tmp_path_factory.mktemp("calm")
    site = Site("north", clinics / "north", state, smallest_group=1, privacy=simulated_privacy(1))
    trainer = TrainerProcess(OURS, site, settings)
    yield SimpleNamespace(trainer=trainer, state=state)
    trainer.close()


@pytest.fixture
def open_trainer(site, settings):
    opened = []

    def open_trainer(hospital):
        opened.append(TrainerProcess(hospital, site, settings))
        return opened[-1]

    yield open_trainer
    for trainer in opened:
        trainer.close()


def never():
    return False


def children():
    """The trainer processes of this one."""
    processes = psutil.Process().children()
    return [process for process in processes if "consortium.client.worker" in process.cmdline()]


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def equal_tensors(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def equal_buffers(first, second):
    """Whether buffers are equal, including their dtypes."""
    assert first.keys() == second.keys()
    return all(
        first[key].dtype == second[key].dtype and np.array_equal(first[key], second[key])
        for key in first
    )


def test_its_answers_are_those_of_a_hospital_in_this_process(calm, site, settings, base):
    torch.use_deterministic_algorithms(False)
    hospital = LocalTrainer(site, settings, device=torch.device("cpu"))
    trainer = calm.trainer
    for number in (0, 1):
        expected = hospital.train(base, number)
        answer = trainer.ask("train", pack(base), never, round_number=number)
        update = update_from_wire(*answer, "north")
        assert equal_tensors(update.tensors, expected.tensors)
        assert (update.base_sha256, update.cases, update.round) == (
            expected.base_sha256,
            expected.cases,
            expected.round,
        )
        assert update.metrics.loss == expected.metrics.loss
    scored = trainer.ask("validate", pack(base), never)
    assert isinstance(scored, Metrics)
    assert scored.validation == hospital.validate(base).validation
    local = trainer.ask("train_local", pack(base), never, rounds=1)
    assert local.validation == hospital.train_local(base, 1).validation


def test_an_answer_stands_when_the_next_one_has_come(calm, base):
    trainer = calm.trainer
    first = trainer.ask("train", pack(base), never, round_number=0)[0]["float32"]
    before = first.copy()
    trainer.ask("train", pack(base), never, round_number=1)
    assert np.array_equal(first, before)


def test_a_crash_costs_a_second_try_and_changes_nothing(open_trainer, calm, site, base):
    died = open_trainer(where("DoomedOnce")).ask("train", pack(base), never, round_number=0)
    undisturbed = calm.trainer.ask("train", pack(base), never, round_number=0)
    assert equal_buffers(died[0], undisturbed[0])
    log = (site.state / ERRORS).read_text()
    assert "error training-died: the trainer process ended (SIGSEGV)" in log
    assert "the process is restarted" in log


def test_a_kill_between_two_rounds_is_not_felt(calm, base):
    calm.trainer.ask("train", pack(base), never, round_number=0)
    [child] = children()
    child.kill()
    child.wait()
    plain = calm.trainer.ask("train", pack(base), never, round_number=1)[1]
    assert plain["round"] == 1


def test_what_dies_at_every_try_is_given_up_and_works_again_after(open_trainer, site, base):
    trainer = open_trainer(where("Doomed"))
    with pytest.raises(Incomplete, match=r"error training-died: .* \(SIGKILL\), hospital north"):
        trainer.ask("train", pack(base), never, round_number=0)
    assert len((site.state / ERRORS).read_text().splitlines()) == 2
    assert isinstance(trainer.ask("validate", pack(base), never), Metrics)


def test_an_error_comes_back_as_its_code_alone(open_trainer, base):
    with pytest.raises(Failed) as failed:
        open_trainer(where("Careless")).ask("train", pack(base), never, round_number=0)
    assert failed.value.code == "internal-error"
    assert "Jane" not in str(failed.value)


def test_a_stop_is_obeyed_and_the_process_stays(calm, base):
    progress = calm.state / "progress.json"
    before = progress.read_text() if progress.exists() else ""

    def stop():
        return progress.exists() and progress.read_text() != before

    with pytest.raises(Stopped):
        calm.trainer.ask("train_local", pack(base), stop, rounds=100_000)
    [child] = children()
    assert isinstance(calm.trainer.ask("validate", pack(base), never), Metrics)
    assert children() == [child]


def test_what_does_not_hear_a_stop_is_killed(open_trainer, site, base, monkeypatch):
    monkeypatch.setattr(process_module, "GRACE", 0.5)
    trainer = open_trainer(where("Deaf"))
    with pytest.raises(Stopped):
        trainer.ask("train", pack(base), (site.state / "deaf").exists, round_number=0)
    assert isinstance(trainer.ask("validate", pack(base), never), Metrics)


def test_it_dies_with_its_parent_in_the_middle_of_training(site, settings, tmp_path):
    file = tmp_path / "settings.json"
    file.write_text(settings.model_dump_json(by_alias=True))
    parent = subprocess.Popen(
        [*PARENT, str(site.data), str(site.state), str(file)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        wait_for((site.state / "progress.json").exists)
        [child] = psutil.Process(parent.pid).children()
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    child.wait(timeout=10)


def test_buffers_come_through_shared_memory_as_they_are():
    file = open_memory()
    ours, theirs = SharedBuffers(file), SharedBuffers(os.dup(file))
    for size in (1, 1000, 10):
        buffers = {
            "float32": np.random.default_rng(0).random(size, np.float32),
            "int64": np.arange(size),
            "bfloat16": np.arange(3, dtype=np.int16),
            "float16": np.empty(0, np.float16),
        }
        assert equal_buffers(theirs.get(ours.put(buffers)), buffers)
        assert equal_buffers(ours.get(theirs.put(buffers)), buffers)
    ours.close()
    theirs.close()
