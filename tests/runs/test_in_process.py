"""Runs in this process and a few forked ones."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import ROOT, TINY

from consortium.client.trainer import LocalTrainer
from consortium.core.errors import EnvironmentProblem, Refused
from consortium.core.json_files import read_json_object
from consortium.runs.hospitals import open_trainer
from consortium.runs.in_process import InProcessRun
from consortium.tasks.tabular.synthetic import CLINICS, generate_tables

JOB = ROOT / "jobs" / "heart_disease"
CPU = torch.device("cpu")
SMALL = ["rounds=4", "training.local_steps=5"]
NAMES = sorted(clinic.name for clinic in CLINICS)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    generate_tables(folder, seed=3)
    return folder


@pytest.fixture
def start(tables, tmp_path):
    def make(name="run", *assignments, **more):
        chosen = {
            "job": JOB,
            "data": tables,
            "assignments": [*SMALL, *assignments],
            "workers": 1,
            "render": False,
        }
        return InProcessRun(workspace=tmp_path / name, **{**chosen, **more})

    return make


def digests(workspace):
    lines = (workspace / "rounds.jsonl").read_text().splitlines()
    return [json.loads(line)["result_sha256"] for line in lines]


def without_times(raw):
    """A result without what differs between two runs: the run's id, durations and versions."""
    if isinstance(raw, dict):
        return {
            key: without_times(value)
            for key, value in raw.items()
            if key not in ("seconds", "run", "versions")
        }
    return [without_times(value) for value in raw] if isinstance(raw, list) else raw


ALL = ["baseline=true", "cross_site=true"]


def test_any_number_of_processes_gives_the_same_bytes(start):
    serial, forked = start("serial", *ALL), start("forked", *ALL, workers=3)
    results = [run.run() for run in (serial, forked)]
    assert results[0]["complete"], results[0]["reason"]
    assert all(row["local"] for row in results[0]["hospitals"])
    assert all(set(scores) == set(NAMES) for scores in results[0]["cross_site"].values())
    assert without_times(results[0]) == without_times(results[1])
    assert digests(serial.workspace) == digests(forked.workspace)


def test_compressed_updates_give_the_same_bytes_after_a_break(start, generated):
    scans = {
        "job": ROOT / "jobs" / "tumor_segmentation",
        "data": generated,
        "assignments": [*TINY, "network.features=[16, 32]", "update.compression=int8", "rounds=3"],
        "smallest_training": 1,
    }
    undisturbed, broken = start("a", **scans), start("b", **scans)
    result = undisturbed.run()
    assert result["complete"], result["reason"]
    assert list(undisturbed.workspace.glob("hospitals/*/*/residual-*"))
    seen = []

    def stop(name, answer):
        seen.append(name)
        if len(seen) == 5:  # in the middle of the second round
            raise KeyboardInterrupt
        return answer

    with pytest.raises(KeyboardInterrupt):
        replace(broken, tamper=stop).run()
    assert len(digests(broken.workspace)) == 1
    resumed = replace(broken, resume=True, assignments=()).run()
    assert resumed["model_sha256"] == result["model_sha256"]
    assert digests(broken.workspace) == digests(undisturbed.workspace)


def command(tables, workspace, *more):
    options = ["--data", str(tables), "--workspace", str(workspace), *more]
    return [sys.executable, "-m", "consortium.cli.simulate", str(JOB), *options]


def children(process):
    listing = subprocess.check_output(["ps", "-eo", "pid,ppid"], text=True)
    pairs = [tuple(map(int, line.split())) for line in listing.splitlines()[1:]]
    return [pid for pid, parent in pairs if parent == process]


def is_running(process):
    try:
        return bool(Path(f"/proc/{process}/cmdline").read_bytes())
    except OSError:
        return False


def test_a_run_that_is_killed_goes_on_with_the_same_bytes_and_leaves_no_process(tables, tmp_path):
    rounds = ["rounds=20", "training.local_steps=5"]
    undisturbed = InProcessRun(
        job=JOB, data=tables, workspace=tmp_path / "a", assignments=rounds, render=False
    )
    result = undisturbed.run()
    workspace = tmp_path / "b"
    settings = [word for assignment in rounds for word in ("--set", assignment)]
    running = subprocess.Popen(command(tables, workspace, *settings), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (workspace / "rounds.jsonl").exists() or len(digests(workspace)) < 3:
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    processes = children(running.pid)
    assert processes
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert not (workspace / "result.json").exists()
    while any(map(is_running, processes)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    resumed = subprocess.run(
        command(tables, workspace, "--resume"), capture_output=True, text=True, check=False
    )
    assert resumed.returncode == 0, resumed.stderr
    assert "going on after round" in resumed.stderr
    assert read_json_object(workspace / "result.json")["model_sha256"] == result["model_sha256"]
    assert digests(workspace) == digests(tmp_path / "a")
    assert (workspace / "report.html").is_file()
    assert (workspace / "tensorboard" / "north").is_dir()


def fail_at(failing_round, name="north", times=1):
    """Returns an `open_trainer` whose trainer for `name` fails in a round, so many times."""
    left = [times]

    class Failing(LocalTrainer):
        def train(self, base, round_number, *, keep=True):
            if round_number == failing_round and left[0]:
                left[0] -= 1
                raise EnvironmentProblem("disk-full", "no space left", "/secret/path")
            return super().train(base, round_number, keep=keep)

    def open_failing(site, settings, report):
        kind = Failing if site.name == name else LocalTrainer
        return kind(site, settings, device=CPU, report=report)

    return open_failing


def test_a_hospital_that_fails_once_is_asked_again_at_once_and_nothing_is_lost(start):
    result = start("plain").run()
    started = time.monotonic()
    run = start("again", open_trainer=fail_at(1))
    again = run.run()
    assert time.monotonic() - started < 10  # the quorum's pause is 10 s of a clock that is not here
    assert (again["complete"], again["reason"]) == (True, "")
    assert again["model_sha256"] == result["model_sha256"]
    lines = (run.workspace / "rounds.jsonl").read_text().splitlines()
    failures = [json.loads(line)["failures"] for line in lines]
    assert failures == [{}, {"north": "disk-full"}, {}, {}]


class Fading(LocalTrainer):
    """Scores every model lower than the one before."""

    def train(self, base, round_number, *, keep=True):
        update = super().train(base, round_number, keep=keep)
        figures = dict.fromkeys(update.metrics.validation.figures, 1 / (1 + round_number))
        score = update.metrics.validation.model_copy(update={"figures": figures})
        metrics = update.metrics.model_copy(update={"validation": score})
        return replace(update, metrics=metrics)


def test_a_run_from_a_model_stops_early_when_it_only_gets_worse(start):
    first = start("first")
    first.run()
    model = first.workspace / "model"
    changes = [f"model.from={model}", "selection.keep=best", "selection.patience=1"]

    def open_fading(site, settings, report):
        return Fading(site, settings, device=CPU, report=report)

    again = start("again", *changes, open_trainer=open_fading, smallest_group=1)
    result = again.run()
    assert (result["complete"], result["reason"]) == (True, "")
    assert (result["rounds"], result["best_round"]) == (2, 0)
    kept = load_file(again.workspace / "model" / "models" / "model.safetensors")
    before = load_file(model / "models" / "model.safetensors")
    assert all(torch.equal(kept[name], tensor) for name, tensor in before.items())
    metadata = again.workspace / "model" / "configs" / "metadata.json"
    assert str(model) not in metadata.read_text()


def test_a_hospital_that_keeps_failing_is_named_by_its_code_and_ends_the_run(start):
    run = start(open_trainer=fail_at(1, times=99))
    result = run.run()
    assert not result["complete"]
    assert result["reason"].startswith(
        "no-quorum: round 2 was asked for 3 times, 4 of 4 hospitals must answer: north (disk-full)"
    )
    assert len(digests(run.workspace)) == 1
    [log] = (run.workspace / "hospitals" / "north").glob("*/errors.log")
    assert log.read_text().count("disk-full: no space left, /secret/path") == 3
    assert "secret" not in json.dumps(result)


def test_a_run_goes_on_without_a_hospital_where_the_quorum_says_so(start):
    result = start(open_trainer=fail_at(1, times=99), quorum=["minimum=3"]).run()
    assert result["reason"] == "north is missing from round 2 (disk-full)"
    assert result["rounds"] == 4


def test_a_hospital_below_its_floor_takes_no_part_and_only_the_code_leaves(start):
    steps = "training.local_steps=20"
    run = start("run", steps, smallest_training=21, quorum=["minimum=3", "retry_delay=0"])
    result = run.run()
    missing = "hillside is missing from rounds 1 to 4 (too-few-patients)"
    assert result["reason"].startswith(missing)
    [log] = (run.workspace / "hospitals" / "hillside").glob("*/errors.log")
    assert "20 training patients; this hospital takes part from 21" in log.read_text()
    assert "20 training patients" not in (run.workspace / "result.json").read_text()


def test_a_job_outside_the_limits_is_refused_by_every_hospital(start):
    result = start("run", "training.clip=1e9").run()
    assert not result["complete"]
    assert "north (outside-limits)" in result["reason"]


def dying(tmp_path, times):
    """Returns an `open_trainer` whose trainer for north kills its process in round 1."""
    marks = tmp_path / "deaths"

    class Dying(LocalTrainer):
        def train(self, base, round_number, *, keep=True):
            deaths = len(marks.read_text()) if marks.exists() else 0
            if round_number == 1 and deaths < times:
                with marks.open("a") as file:
                    file.write("x")
                os.kill(os.getpid(), signal.SIGKILL)
            return super().train(base, round_number, keep=keep)

    def open_dying(site, settings, report):
        kind = Dying if site.name == "north" else LocalTrainer
        return kind(site, settings, device=CPU, report=report)

    return open_dying


def test_a_process_that_dies_is_started_again_with_the_same_bytes(start, tmp_path):
    result = start("plain").run()
    again = start("again", open_trainer=dying(tmp_path, 1), workers=2)
    assert again.run()["model_sha256"] == result["model_sha256"]
    [log] = (again.workspace / "hospitals" / "north").glob("*/errors.log")
    assert "training-died" in log.read_text()


def test_a_process_that_dies_twice_costs_its_hospital_the_round(start, tmp_path):
    run = start(open_trainer=dying(tmp_path, 2), workers=2, quorum=["minimum=3"])
    assert run.run()["reason"] == "north is missing from round 2 (training-died)"


def test_a_finished_run_is_extended(start):
    first = start().run()
    longer = start(resume=True, assignments=["rounds=6"]).run()
    assert (longer["rounds"], longer["complete"]) == (6, True)
    assert longer["model_sha256"] != first["model_sha256"]


def test_two_runs_never_share_a_workspace(start):
    run, refused = start(), []

    def intrude(name, answer):
        if not refused:
            with pytest.raises(Refused, match="workspace-busy"):
                start(resume=True, assignments=()).run()
            refused.append(name)
        return answer

    assert start(tamper=intrude).run()["complete"]
    assert refused
    assert run.workspace.is_dir()


def test_a_run_is_seen_while_it_goes_on(start, monkeypatch):
    monkeypatch.setattr("consortium.runs.in_process.POLL", 0.0)
    views = []
    start(open_trainer=open_trainer).run(views.append)
    assert len(views[-1].records) == 4
    assert {len(view.records) for view in views} == {0, 1, 2, 3, 4}
    assert views[-1].hospitals.keys() == set(NAMES)
    stages = {progress["stage"] for view in views for progress in view.hospitals.values()}
    assert "train" in stages
