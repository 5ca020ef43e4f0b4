"""Errors of `scripts/simulate` for wrong input: nothing is started then."""

import json
import subprocess
from dataclasses import replace

import nibabel
import numpy as np
import pytest
from tests.conftest import JOB, TINY

from consortium.cli.run import run_app
from consortium.cli.simulate import app
from consortium.core.errors import EnvironmentProblem, Refused, UsageError
from consortium.models.bundle import write_bundle
from consortium.models.networks import build_network
from consortium.runs.simulator import Simulation
from consortium.tasks.registry import load_settings


@pytest.fixture(params=["in-process", "flare"])
def simulate(request, capsys, tmp_path, monkeypatch):
    def must_not_start(*arguments, **more):
        raise AssertionError("the federation was started")

    monkeypatch.setattr("consortium.runs.simulator.start_simulator", must_not_start)
    monkeypatch.setattr("consortium.runs.in_process.InProcessFederation", must_not_start)

    def run(*arguments, workspace=tmp_path / "workspace"):
        settings = [word for assignment in TINY for word in ("--set", assignment)]
        options = ["--workspace", str(workspace), "--engine", request.param, *settings]
        with pytest.raises(SystemExit) as ended:
            run_app(app, [str(JOB), *options, *map(str, arguments)])
        return ended.value.code, capsys.readouterr().err

    return run


def test_a_missing_folder(simulate, tmp_path):
    code, error = simulate("--data", tmp_path / "none")
    assert code == 2
    assert error == f"error missing-folder: no such folder, {tmp_path / 'none'}, check --data\n"


def test_an_empty_hospital(simulate, hospitals):
    (hospitals / "new").mkdir()
    code, error = simulate("--data", hospitals)
    assert code == 2
    assert error.startswith("error missing-file: no such file, ")
    assert f"{hospitals / 'new' / 'dataset.json'}" in error
    assert error.count("\n") == 1


def test_one_hospital_with_other_channels(simulate, hospitals):
    raw = json.loads((hospitals / "valley" / "dataset.json").read_text())
    raw["modality"] = {"0": "CT"}
    (hospitals / "valley" / "dataset.json").write_text(json.dumps(raw))
    code, error = simulate("--data", hospitals)
    assert code == 3
    assert error.startswith(
        "error wrong-channels: hospital valley has the channels CT and the job takes pre-contrast, "
        "FLAIR, post-contrast, "
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--set", "training.steps=3"], 2, "error unknown-setting: there is no setting training."),
        (["--set", "training.batch=0"], 2, "error bad-setting: setting training.batch: "),
        (["--rounds", "0"], 2, "error bad-setting: setting rounds: "),
        (["--rounds", "x"], 2, "error usage: Invalid value for '--rounds'"),
        (["--sed", "1"], 2, "error usage: No such option"),
        (["--set", "training.clip=Infinity"], 2, "error bad-setting: setting training.clip: "),
        (["--set", "selection.patience=3"], 2, "error bad-setting: setting selection: patience"),
        (["--set", "data.size=[31,31]"], 2, "error bad-setting: setting data.size: "),
        (["--set", "model.from=/nowhere"], 2, "error missing-file: no such model, /nowhere"),
        (["--resume"], 2, "error settings-on-resume: only the number of rounds"),
        (["--settings", "/nowhere.json"], 2, "error missing-file: no such file, /nowhere.json, "),
        (["--settings", "/"], 2, "error bad-json: not a JSON file ("),
    ],
)
def test_a_wrong_setting_or_option(simulate, generated, tmp_path, arguments, code, message):
    ended, error = simulate("--data", generated, *arguments)
    assert (ended, error[: len(message)]) == (code, message)
    assert error.count("\n") == 1
    assert not (tmp_path / "workspace").exists()


def test_a_setting_of_a_settings_file_that_cannot_be_names_the_file(simulate, generated, tmp_path):
    file = tmp_path / "mine.json"
    raw = json.loads((JOB / "app" / "config" / "settings.json").read_text())
    file.write_text(json.dumps(raw | {"rounds": 0}))
    code, error = simulate("--data", generated, "--settings", file)
    assert code == 2
    assert error.startswith("error bad-setting: setting rounds: ")
    assert error.endswith(f", {file}, correct the value\n")


def test_a_settings_file_takes_the_place_of_the_jobs_and_set_changes_it(
    generated, tmp_path, monkeypatch
):
    file, workspace = tmp_path / "mine.json", tmp_path / "workspace"
    raw = json.loads((JOB / "app" / "config" / "settings.json").read_text())
    file.write_text(json.dumps(raw | {"rounds": 7, "seed": 5}))

    def start(job, **more):
        submitted = load_settings(job / "app" / "config" / "settings.json")
        assert (submitted.rounds, submitted.seed) == (7, 3)
        raise KeyboardInterrupt

    monkeypatch.setattr("consortium.runs.simulator.start_simulator", start)
    with pytest.raises(KeyboardInterrupt):
        Simulation(
            job=JOB, data=generated, workspace=workspace, settings=file, assignments=["seed=3"]
        ).run()
    with pytest.raises(UsageError, match="settings-on-resume"):
        Simulation(job=JOB, data=generated, workspace=workspace, settings=file, resume=True).run()


def test_a_hospital_with_a_name_that_cannot_be(simulate, hospitals):
    (hospitals / "north").rename(hospitals / "north wing")
    code, error = simulate("--data", hospitals)
    assert (code, error.split(":")[0]) == (2, "error bad-hospital-name")


def test_a_workspace_in_use_is_left_alone(simulate, generated, tmp_path):
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    (workspace / "thesis.txt").write_text("years of work")
    code, error = simulate("--data", generated)
    assert code == 3
    assert error == (
        f"error workspace-in-use: the workspace is not empty, {workspace}, "
        "choose another one, or continue with --resume\n"
    )
    assert [path.name for path in workspace.iterdir()] == ["thesis.txt"]


def test_nothing_to_resume(generated, capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        run_app(
            app,
            [str(JOB), "--data", str(generated), "--workspace", str(tmp_path / "w"), "--resume"],
        )
    assert ended.value.code == 3
    printed = capsys.readouterr().err
    assert printed.startswith("error nothing-to-resume: the workspace has no run of this job")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        (["network.features=[4,16]"], "wrong-architecture"),
        (['data.labels={"liver": [1, 2]}'], "wrong-labels"),
        (['data.channels=["CT","PET","X"]'], "wrong-channels"),
    ],
)
def test_a_start_model_of_another_job_is_refused_before_anything_starts(
    simulate, generated, tmp_path, tiny, changes, code
):
    other = tiny(*changes)
    write_bundle(tmp_path / "model", other, build_network(other).state_dict(), trained={})
    exit_code, error = simulate("--data", generated, "--set", f"model.from={tmp_path / 'model'}")
    assert exit_code == 3
    assert error.startswith(f"error {code}: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "workspace").exists()


def test_two_runs_never_share_a_workspace(hospitals, tmp_path, monkeypatch):
    workspace = tmp_path / "workspace"
    simulation = Simulation(job=JOB, data=hospitals, workspace=workspace, assignments=TINY)

    def start(*arguments, **more):
        with pytest.raises(Refused, match="error workspace-busy: another run is using"):
            replace(simulation, resume=True, assignments=()).run()
        raise KeyboardInterrupt

    monkeypatch.setattr("consortium.runs.simulator.start_simulator", start)
    with pytest.raises(KeyboardInterrupt):
        simulation.run()


def test_without_a_result_the_reason_is_reported(hospitals, tmp_path, monkeypatch):
    workspace = tmp_path / "workspace"

    def start(*arguments, **more):
        (workspace / "trouble.txt").write_text("error disk-full: no space left, /x, free some\n")
        return subprocess.Popen(["false"])

    monkeypatch.setattr("consortium.runs.simulator.start_simulator", start)
    with pytest.raises(EnvironmentProblem, match=r"no-result: .*disk-full: no space left"):
        Simulation(job=JOB, data=hospitals, workspace=workspace, assignments=TINY).run()


def test_a_mask_of_another_shape_or_label_is_found_by_the_same_check_that_the_hospital_runs(
    hospitals, tmp_path, tiny
):
    from consortium.tasks.segmentation.checks import check_folder
    from consortium.tasks.segmentation.datalist import read_datalist

    cases = read_datalist(hospitals / "north").cases
    mask = nibabel.load(cases[0].label)
    values = np.asanyarray(mask.dataobj).copy()
    values[0, 0, 0] = 9
    nibabel.Nifti1Image(values, mask.affine).to_filename(cases[0].label)
    nibabel.Nifti1Image(values[:-1], mask.affine).to_filename(cases[1].label)
    codes = {finding.code for finding in check_folder(hospitals / "north", tiny())}
    assert {"unknown-label", "shape-mismatch"} <= codes
