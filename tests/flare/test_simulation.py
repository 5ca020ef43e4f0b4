"""The job in FLARE's simulator, as folder and as bundle; every hospital is its own process."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import venv
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from safetensors.torch import load_file
from tests.conftest import JOB, TINY

from consortium.core.errors import EnvironmentProblem, Incomplete, UsageError
from consortium.core.json_files import read_json_object
from consortium.core.site_policy import simulated_privacy
from consortium.runs.in_process import InProcessRun
from consortium.runs.simulator import Simulation
from consortium.settings.base import override
from consortium.study.job_folder import CLIENT_CONFIG, SERVER_CONFIG, add_configuration, export_job
from consortium.tasks.segmentation.datalist import read_datalist

pytestmark = pytest.mark.flare

NAMES = ["harbour", "north", "valley"]
THREE_ROUNDS = [*TINY, "rounds=3"]
PLANTED = "PLANTED-Jane-Doe"


@pytest.fixture(scope="module")
def identified(generated, tmp_path_factory):
    """The hospitals, with patients' identifiers in paths, ids and headers."""
    folder = tmp_path_factory.mktemp(PLANTED) / "hospitals"
    shutil.copytree(generated, folder)
    for hospital in folder.iterdir():
        raw = json.loads((hospital / "dataset.json").read_text())
        for number, entry in enumerate(raw["training"]):
            entry["patient"] = f"{PLANTED}-{entry['patient']}"
            if number < 2:
                image = nibabel.load(hospital / entry["image"])
                image.header["descrip"] = PLANTED.encode()
                data = np.asanyarray(image.dataobj)
                (hospital / entry["image"]).unlink()
                entry["image"] = f"./imagesTr/{PLANTED}-{number}.nii.gz"
                nibabel.Nifti1Image(data, image.affine, image.header).to_filename(
                    hospital / entry["image"]
                )
        (hospital / "dataset.json").write_text(json.dumps(raw))
    return folder


@pytest.fixture(scope="module")
def finished(identified, tmp_path_factory):
    """A run with all evaluations."""
    workspace = tmp_path_factory.mktemp("run") / "workspace"
    result = Simulation(
        job=JOB,
        data=identified,
        workspace=workspace,
        assignments=[*THREE_ROUNDS, "baseline=true", "cross_site=true"],
        smallest_group=1,
        smallest_training=1,
    ).run()
    return result, workspace


@pytest.fixture(scope="module")
def undisturbed(identified, tmp_path_factory):
    """A run of three rounds without FLARE, with which others are compared."""
    workspace = tmp_path_factory.mktemp("run") / "workspace"
    result = InProcessRun(
        job=JOB,
        data=identified,
        workspace=workspace,
        assignments=THREE_ROUNDS,
        smallest_group=1,
        smallest_training=1,
        render=False,
    ).run()
    return result, workspace


def read_rounds(workspace):
    return [json.loads(line) for line in (workspace / "rounds.jsonl").read_text().splitlines()]


def test_all_hospitals_take_part_to_the_end(finished):
    result, workspace = finished
    assert (result["complete"], result["reason"]) == (True, "")
    assert [row["name"] for row in result["hospitals"]] == NAMES
    for row in result["hospitals"]:
        for model in ("local", "federated"):
            assert 0 <= row[model]["figures"]["tumour"] <= 1
    rounds = read_rounds(workspace)
    assert [record["round"] for record in rounds] == [0, 1, 2]
    for record in rounds:
        assert record["asked"] == record["answered"] == NAMES
        assert (record["refused"], record["late"], record["lost"]) == ([], [], [])
        assert set(record["cases"]) == set(NAMES)


def test_every_hospitals_model_is_scored_at_every_hospital(finished):
    matrix = finished[0]["cross_site"]
    assert {(model, at) for model, row in matrix.items() for at in row} == {
        (model, at) for model in NAMES for at in NAMES
    }


def test_the_model_is_a_bundle_that_monai_opens(finished):
    result, workspace = finished
    model = workspace / "model"
    parser = ConfigParser()
    parser.read_config(model / "configs" / "inference.json")
    parser.read_meta(model / "configs" / "metadata.json")
    network = parser.get_parsed_content("network_def")
    weights = load_file(model / "models" / "model.safetensors")
    network.load_state_dict(weights)
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())
    assert len(result["model_sha256"]) == 64


def test_curves_of_each_hospital_and_of_all_are_there(finished):
    folder = finished[1] / "tensorboard"
    for name in [*NAMES, "global"]:
        assert list((folder / name).rglob("events.out.tfevents.*"))


def test_no_identifier_reaches_the_orchestrator(finished):
    _, workspace = finished
    seen = 0
    for root in ("federation/server", "checkpoints", "model", "tensorboard"):
        for path in (workspace / root).rglob("*"):
            if path.is_file():
                seen += 1
                assert PLANTED.encode() not in path.read_bytes(), path
    for name in ("result.json", "rounds.jsonl", "report.html"):
        assert PLANTED not in (workspace / name).read_text()
    assert seen > 10


def test_a_run_killed_in_the_middle_and_resumed_ends_with_the_same_bytes(
    undisturbed, identified, tmp_path
):
    workspace = tmp_path / "workspace"
    arguments = ["--data", str(identified), "--workspace", str(workspace), "--smallest-group", "1"]
    arguments += ["--smallest-training", "1"]
    arguments += ["--engine", "flare"]
    command = [sys.executable, "-m", "consortium.cli.simulate", str(JOB), *arguments]
    settings = [word for assignment in THREE_ROUNDS for word in ("--set", assignment)]
    running = subprocess.Popen([*command, *settings], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (workspace / "rounds.jsonl").exists() or len(read_rounds(workspace)) < 1:
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    kill_all_below(running)
    assert not (workspace / "result.json").exists()

    refused = subprocess.run([*command, *settings], capture_output=True, text=True)
    assert refused.returncode == 3
    assert refused.stderr.startswith("error workspace-in-use: the workspace is not empty")

    resumed = subprocess.run([*command, "--resume"], capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on after round" in resumed.stderr
    result = read_json_object(workspace / "result.json")
    assert result["complete"]
    assert result["model_sha256"] == undisturbed[0]["model_sha256"]
    digests = [record["result_sha256"] for record in read_rounds(workspace)]
    assert digests == [record["result_sha256"] for record in read_rounds(undisturbed[1])]


def test_a_run_is_not_resumed_to_fewer_rounds_than_are_done(finished, identified):
    _, workspace = finished
    result = (workspace / "result.json").read_bytes()
    shorter = Simulation(
        job=JOB,
        data=identified,
        workspace=workspace,
        assignments=["rounds=2"],
        resume=True,
        smallest_group=1,
        smallest_training=1,
    )
    with pytest.raises(UsageError, match="fewer-rounds: 3 rounds are closed already, more than 2"):
        shorter.run()
    assert (workspace / "result.json").read_bytes() == result


def test_a_hospital_whose_process_dies_ends_the_run_and_is_named(
    undisturbed, identified, tmp_path, monkeypatch
):
    monkeypatch.setattr("consortium.runs.simulator.GRACE", 1.0)
    simulation = Simulation(
        job=JOB,
        data=identified,
        workspace=tmp_path / "workspace",
        assignments=THREE_ROUNDS,
        smallest_group=1,
        smallest_training=1,
    )
    killed = []

    def kill(view):
        if view.records and not killed:
            killed.append(view.hospitals["valley"]["process"])
            os.kill(killed[0], signal.SIGKILL)

    with pytest.raises(Incomplete, match="error hospital-died: the process of valley ended"):
        simulation.run(kill)
    result = replace(simulation, resume=True, assignments=()).run()
    assert result["complete"]
    assert result["model_sha256"] == undisturbed[0]["model_sha256"]


def job_with(executor, tmp_path):
    """The job, with an executor of `faulty_executor` in its own code."""
    job = tmp_path / "changed"
    shutil.copytree(JOB, job)
    add_configuration(job)
    custom = job / "app" / "custom"
    custom.mkdir()
    shutil.copy(Path(__file__).with_name("faulty_executor.py"), custom)
    config = job / CLIENT_CONFIG
    ours = "consortium.flare.client.components.HospitalExecutor"
    config.write_text(config.read_text().replace(ours, f"faulty_executor.{executor}"))
    return job


def kill_all_below(process):
    """SIGKILL for FLARE's server process, then for the command; sites end without their parent."""
    listing = subprocess.run(
        ["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True
    ).stdout
    children = {}
    for line in listing.splitlines()[1:]:
        pid, parent = map(int, line.split())
        children.setdefault(parent, []).append(pid)
    waiting, pids = [process.pid], []
    while waiting:
        pid = waiting.pop()
        pids.append(pid)
        waiting += children.get(pid, [])
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    process.wait()


def test_misbehaving_hospitals_are_refused_and_named_and_the_others_go_on(identified, tmp_path):
    job = job_with("FaultyExecutor", tmp_path)
    workspace = tmp_path / "workspace"
    result = Simulation(
        job=job,
        data=identified,
        workspace=workspace,
        assignments=THREE_ROUNDS,
        quorum=["minimum=1"],
        smallest_group=1,
        smallest_training=1,
    ).run()
    assert not result["complete"]
    refused, lost, failures = [], [], []
    for record in read_rounds(workspace):
        assert "north" in record["answered"]
        refused.append([(r["hospital"], r["code"], bool(r["tensor"])) for r in record["refused"]])
        lost.append(record["lost"])
        failures.append(record["failures"])
    assert refused == [
        [("harbour", "wrong-shape", True)],
        [("harbour", "not-finite", True), ("valley", "wrong-base", False)],
        [("harbour", "late", False), ("valley", "missing-tensor", True)],
    ]
    assert lost == [["valley"], [], []]
    assert failures == [{"valley": "internal-error"}, {}, {}]
    assert "harbour is missing from rounds 1 to 3 (wrong-shape" in result["reason"]
    assert "valley is missing from rounds 1 to 3 (internal-error)" in result["reason"]
    model = load_file(workspace / "model" / "models" / "model.safetensors")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in model.values())
    for path in (workspace / "federation" / "server").rglob("*"):
        assert not path.is_file() or PLANTED.encode() not in path.read_bytes(), path


def test_the_aggregator_works_in_flares_own_rounds_with_the_same_bytes(
    undisturbed, identified, tmp_path
):
    job = job_with("HospitalExecutor", tmp_path)
    config = job / SERVER_CONFIG
    content = read_json_object(config)
    for name in ("UpdateAggregator", "ModelPersistor", "ModelShareableGenerator"):
        component = {"id": name, "path": f"consortium.flare.server.components.{name}", "args": {}}
        content["components"].append(component)
    content["workflows"][0] = {
        "id": "training",
        "path": "nvflare.app_common.workflows.scatter_and_gather.ScatterAndGather",
        "args": {
            "aggregator_id": "UpdateAggregator",
            "persistor_id": "ModelPersistor",
            "shareable_generator_id": "ModelShareableGenerator",
            "min_clients": 3,
            "train_task_name": "train",
            "train_timeout": 0,
            "wait_time_after_min_received": 0,
            "snapshot_every_n_rounds": 0,
        },
    }
    config.write_text(json.dumps(content))
    result = Simulation(
        job=job,
        data=identified,
        workspace=tmp_path / "workspace",
        assignments=THREE_ROUNDS,
        smallest_group=1,
        smallest_training=1,
    ).run()
    assert (result["complete"], result["reason"]) == (True, "")
    assert result["model_sha256"] == undisturbed[0]["model_sha256"]


def test_a_run_below_its_quorum_stops_with_a_reason_and_keeps_its_closed_rounds(
    identified, tmp_path
):
    workspace = tmp_path / "workspace"
    result = Simulation(
        job=job_with("FailingExecutor", tmp_path),
        data=identified,
        workspace=workspace,
        assignments=THREE_ROUNDS,
        quorum=["minimum=2", 'mandatory=["valley"]', "retry_delay=0.1", "max_attempts=2"],
        smallest_group=1,
        smallest_training=1,
    ).run()
    assert not result["complete"]
    assert result["reason"].startswith(
        "no-quorum: round 2 was asked for 2 times, 2 of 3 hospitals must answer, valley among"
        " them: valley (internal-error)"
    )
    assert [record["answered"] for record in read_rounds(workspace)] == [NAMES]


def test_a_slow_hospital_misses_the_deadline_is_on_record_and_comes_back(identified, tmp_path):
    workspace = tmp_path / "workspace"
    result = Simulation(
        job=job_with("SlowExecutor", tmp_path),
        data=identified,
        workspace=workspace,
        assignments=[*TINY, "rounds=6"],
        quorum=["minimum=2", "deadline=15"],
        smallest_group=1,
        smallest_training=1,
    ).run()
    records = read_rounds(workspace)
    assert len(records) == 6
    assert records[1]["lost"] == ["valley"]
    assert records[1]["answered"] == ["harbour", "north"]
    assert "valley is missing from " in result["reason"]
    assert all(len(record["answered"]) >= 2 for record in records)
    assert [name for record in records for name in record["late"]] == ["valley"]
    codes = {r["code"] for record in records for r in record["refused"]}
    assert codes == {"late"}
    assert records[-1]["answered"] == NAMES


def test_a_hospital_without_readable_scans_is_named_and_the_run_is_incomplete(identified, tmp_path):
    data = tmp_path / "hospitals"
    shutil.copytree(identified, data)
    image = read_datalist(data / "valley").cases[0].image
    image.write_bytes(image.read_bytes()[:200])
    workspace = tmp_path / "workspace"
    run = subprocess.run(
        [sys.executable, "-m", "consortium.cli.simulate", str(JOB)]
        + ["--data", str(data), "--workspace", str(workspace), "--engine", "flare"]
        + [word for assignment in TINY for word in ("--set", assignment)]
        + ["--quorum", "minimum=2", "--smallest-training", "1"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert last.startswith("error incomplete: valley is missing from rounds 1 to 2 (data-unfit)")
    for name in ("result.json", "federation.log"):
        assert PLANTED not in (workspace / name).read_text()
    [log] = (workspace / "hospitals" / "valley").glob("*/errors.log")
    assert image.name in log.read_text()


def test_the_bundled_job_runs_where_the_package_is_not_installed(undisturbed, identified, tmp_path):
    bundle = tmp_path / "bundled"
    export_job(JOB, bundle, hospitals=NAMES)
    settings = bundle / "app" / "config" / "settings.json"
    settings.write_text(json.dumps(override(read_json_object(settings), THREE_ROUNDS)))
    # An environment with everything but this package: .pth files in a folder that is named by a
    # .pth file are not followed, and the package is installed by one.
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    [site_packages] = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site_packages / "all.pth").write_text(str(Path(torch.__file__).parents[1]))
    ended = subprocess.run([python, "-c", "import nvflare, consortium"], capture_output=True)
    assert b"No module named 'consortium'" in ended.stderr
    workspace = tmp_path / "workspace"
    subprocess.run(
        [
            python,
            "-m",
            "nvflare.private.fed.app.simulator.simulator",
            bundle,
            "-w",
            workspace,
            "-c",
            ",".join(NAMES),
            "-t",
            "3",
        ],
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "CONSORTIUM_DATA": str(identified / "{site}"),
            "CONSORTIUM_SMALLEST_GROUP": "1",
            "CONSORTIUM_PRIVACY": simulated_privacy(1).model_dump_json(),
        },
        stdout=subprocess.DEVNULL,
        check=True,
    )
    [result_file] = (workspace / "server").rglob("result.json")
    result = read_json_object(result_file)
    assert result["complete"]
    assert result["model_sha256"] == undisturbed[0]["model_sha256"]


def test_a_job_may_build_only_the_listed_components(identified, tmp_path):
    job = tmp_path / "greedy"
    shutil.copytree(JOB, job)
    add_configuration(job)
    config = job / SERVER_CONFIG
    content = read_json_object(config)
    content["components"].append({"id": "more", "path": "consortium.core.files.Path", "args": {}})
    config.write_text(json.dumps(content))
    workspace = tmp_path / "workspace"
    simulation = Simulation(job=job, data=identified, workspace=workspace, assignments=TINY)
    with pytest.raises(EnvironmentProblem, match="error no-result: FLARE ended without a result"):
        simulation.run()
    log = (workspace / "federation.log").read_text()
    assert "'consortium.core.files.Path' at config path 'components.#2' is not in allow_list" in log
