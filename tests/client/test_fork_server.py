"""Trainer processes from a fork server: the same answers as spawned ones, and the same ends."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tests.client.misbehaving import where
from tests.client.training_parent import PARENT

from consortium.client import fork_server as fork_server_module
from consortium.client.fork_server import ADDRESS, fork_server, fork_worker, start_server
from consortium.client.process import TrainerProcess
from consortium.core.errors import Incomplete
from consortium.core.json_files import read_json_object
from consortium.core.site_policy import ERRORS, Site, simulated_privacy
from consortium.models.networks import build_network
from consortium.protocol.codec import pack
from consortium.protocol.metrics import Metrics

OURS = "consortium.client.trainer:LocalTrainer"


@pytest.fixture(scope="module")
def settings(tiny):
    return tiny("training.local_steps=5", "rounds=3")


@pytest.fixture(scope="module")
def base(settings):
    return build_network(settings, seed=1).state_dict()


@pytest.fixture
def site(generated, tmp_path):
    (tmp_path / "state").mkdir()
    return Site(
        "north",
        generated / "north",
        tmp_path / "state",
        smallest_group=1,
        privacy=simulated_privacy(1),
    )


@pytest.fixture
def address(fork_address, monkeypatch):
    """The server of this session; trainers are forked."""
    monkeypatch.setenv(ADDRESS, fork_address)
    return fork_address


@pytest.fixture
def open_trainer(site, settings):
    opened = []

    def open_trainer(hospital=OURS):
        opened.append(TrainerProcess(hospital, site, settings))
        return opened[-1]

    yield open_trainer
    for trainer in opened:
        trainer.close()


def never():
    return False


def workers(site):
    """The trainer processes of a site, identified by their command lines."""
    processes = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if "consortium.client.worker" in words and str(site.state) in words:
            processes.append(process)
    return processes


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_forked_trainer_gives_the_bytes_of_a_spawned_one(
    address, open_trainer, base, monkeypatch, threads
):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    forked = open_trainer()
    monkeypatch.setenv(ADDRESS, "")
    spawned = open_trainer()
    assert forked._process.__class__ is not spawned._process.__class__
    for number in (0, 1):
        arrays, plain = forked.ask("train", pack(base), never, round_number=number)
        expected, expected_plain = spawned.ask("train", pack(base), never, round_number=number)
        assert {key: flat.tobytes() for key, flat in arrays.items()} == {
            key: flat.tobytes() for key, flat in expected.items()
        }
        for timed in (plain, expected_plain):
            timed["metrics"].pop("seconds", None)
        assert plain == expected_plain
    scores = [trainer.ask("validate", pack(base), never) for trainer in (forked, spawned)]
    assert scores[0].validation == scores[1].validation


def test_it_is_recognised_by_its_command_line_and_by_the_process_that_asked(
    address, open_trainer, site, base
):
    trainer = open_trainer()
    trainer.ask("train", pack(base), never, round_number=0)
    [process] = workers(site)
    words = process.cmdline()
    assert words[words.index("--site") + 1] == "north"
    assert process.ppid() != os.getpid()
    assert read_json_object(site.state / "progress.json")["process"] == os.getpid()
    assert Path(f"/proc/{process.pid}/oom_score_adj").read_text().strip() == "500"
    assert process.cwd() == str(Path.cwd())


def test_its_death_is_noticed_and_it_is_forked_again(address, open_trainer, site, base):
    died = open_trainer(where("DoomedOnce")).ask("train", pack(base), never, round_number=0)
    assert died[1]["round"] == 0
    reported = (site.state / ERRORS).read_text()
    assert "error training-died: the trainer process ended (SIGSEGV)" in reported


def test_what_dies_at_every_try_is_given_up_and_works_again_after(address, open_trainer, base):
    trainer = open_trainer(where("Doomed"))
    with pytest.raises(Incomplete, match=r"error training-died: .* \(SIGKILL\), hospital north"):
        trainer.ask("train", pack(base), never, round_number=0)
    assert isinstance(trainer.ask("validate", pack(base), never), Metrics)


def test_nothing_is_left_when_it_is_closed(address, open_trainer, site, base):
    trainer = open_trainer()
    trainer.ask("validate", pack(base), never)
    [process] = workers(site)
    trainer.close()
    process.wait(10)


def test_it_ends_with_the_process_that_asked_in_the_middle_of_training(
    address, site, settings, tmp_path
):
    file = tmp_path / "settings.json"
    file.write_text(settings.model_dump_json(by_alias=True))
    parent = subprocess.Popen(
        [*PARENT, str(site.data), str(site.state), str(file)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        wait_for((site.state / "progress.json").exists)
        [process] = workers(site)
        assert psutil.Process(parent.pid).children() == []
    finally:
        parent.kill()
        parent.wait()
    process.wait(timeout=10)


def test_a_server_ends_with_who_started_it_and_leaves_nothing(monkeypatch):
    environment = {name: value for name, value in os.environ.items() if name != ADDRESS}
    life, held = os.pipe()
    server = start_server(life, environment, mark="/some/machines/")
    os.close(life)
    folder = Path(server.address).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(Path(server.address).stat().st_mode) == 0o600
    os.close(held)
    assert server.process.wait(60) == 0
    assert not folder.exists()
    monkeypatch.setenv(ADDRESS, server.address)
    assert fork_worker([], []) is None


def test_a_server_has_one_thread_when_it_forks(address, open_trainer, site, base):
    open_trainer().ask("validate", pack(base), never)
    [process] = workers(site)
    assert psutil.Process(process.ppid()).num_threads() == 1


def test_another_version_of_the_package_is_spawned(address, monkeypatch):
    monkeypatch.setattr(fork_server_module.consortium, "__file__", "/elsewhere/__init__.py")
    assert fork_worker([], []) is None


@pytest.mark.parametrize("visible", ["0", None])
def test_a_machine_with_a_gpu_spawns(address, monkeypatch, visible):
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([Path("/dev/nvidia0")]))
    assert fork_worker([], []) is None


def test_a_server_that_is_named_is_not_started_again():
    for named in ("", "/somewhere/socket"):
        with fork_server({ADDRESS: named}) as environment:
            assert environment == {ADDRESS: named}
