"""The hospital's executor with a stand-in for FLARE's context; `test_simulation` has the real."""

import json
import logging
from types import SimpleNamespace

import pytest
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.signal import Signal

from consortium.errors import UsageError
from consortium.flare import executor as executor_module
from consortium.flare.executor import ALONE, ERRORS, LOCAL_MODEL, TRAIN, HospitalExecutor
from consortium.flare.job import Job
from consortium.flare.wire import answer_from_shareable, model_to_shareable
from consortium.training.networks import build_network
from consortium.training.train import Site
from consortium.update import Failure, Update


@pytest.fixture
def ask(generated, tmp_path, tiny, monkeypatch):
    """Hands a task to the executor of the hospital north."""
    settings = tiny("training.local_steps=20", "rounds=3")
    site = Site("north", generated / "north", tmp_path / "state", smallest_group=1)
    job = Job("run", "job", ("north",), {}, settings, tmp_path, tmp_path)
    monkeypatch.setattr(executor_module, "read_job", lambda fl_ctx: job)
    monkeypatch.setattr(executor_module, "find_site", lambda job, fl_ctx: site)
    context = SimpleNamespace(get_identity_name=lambda: "north")
    base = build_network(settings, seed=1).state_dict()
    executor = HospitalExecutor()

    def ask(task, *, abort=None, model=base, **meta):
        data = model_to_shareable(model, **({"round": 0, "rounds": 3} | meta))
        return executor.execute(task, data, context, abort or Signal())

    ask.state = site.state
    return ask


def test_a_round_is_answered_with_an_update(ask):
    update = answer_from_shareable(ask(TRAIN), "north")
    assert isinstance(update, Update)
    assert (update.round, update.hospital) == (0, "north")


@pytest.mark.parametrize("task", [TRAIN, ALONE])
def test_an_abort_is_obeyed_within_one_batch(ask, monkeypatch, task):
    abort, seen = Signal(), []
    report = HospitalExecutor._report

    def watch(executor, progress):
        seen.append((progress.stage, progress.step))
        if progress.stage in ("train", "alone") and progress.step == 3:
            abort.trigger("by a person")
        report(executor, progress)

    monkeypatch.setattr(HospitalExecutor, "_report", watch)
    assert ask(task, abort=abort).get_return_code() == ReturnCode.TASK_ABORTED
    assert seen[-1][1] == 3


def test_an_error_crosses_as_a_code_and_is_told_in_full_at_the_hospital_alone(
    ask, monkeypatch, caplog, capfd
):
    def fail(hospital, base, round_number):
        raise RuntimeError("patient Jane Doe in /srv/scans")

    monkeypatch.setattr("consortium.training.train.Hospital.train", fail)
    with caplog.at_level(logging.DEBUG):
        answer = ask(TRAIN)
    assert answer_from_shareable(answer, "north") == Failure("north", "internal-error")
    assert "Jane" not in json.dumps(answer, default=str)
    assert "Jane" not in caplog.text + "".join(capfd.readouterr())
    assert "error internal-error: see the hospital's own errors.log" in caplog.text
    told = (ask.state / ERRORS).read_text()
    assert "RuntimeError: patient Jane Doe in /srv/scans" in told
    assert "Traceback" in told


def test_a_hospital_that_shows_its_model_to_nobody_says_so(ask):
    answer = answer_from_shareable(ask(LOCAL_MODEL), "north")
    assert answer == Failure("north", "not-shared")
    assert (
        "error not-shared: this hospital shows its model to nobody"
        in (ask.state / ERRORS).read_text()
    )


def test_an_unknown_task_is_a_failure(ask):
    assert answer_from_shareable(ask("steal"), "north") == Failure("north", "unknown-task")


def test_a_name_that_is_no_text_is_noted_too(ask, monkeypatch, caplog):
    def fail(hospital, base, round_number):
        raise UsageError("unreadable-file", "damaged", "Jane\udcfc.nii.gz", "copy it again")

    monkeypatch.setattr("consortium.training.train.Hospital.train", fail)
    assert answer_from_shareable(ask(TRAIN), "north") == Failure("north", "unreadable-file")
    assert "Jane" not in caplog.text
    assert "Jane\\udcfc.nii.gz" in (ask.state / ERRORS).read_text()


@pytest.mark.parametrize("stage", ["check", "validate"])
def test_an_abort_is_obeyed_while_scans_are_read_and_scored(ask, monkeypatch, stage):
    abort, after = Signal(), []
    report = HospitalExecutor._report

    def watch(executor, progress):
        if abort.triggered:
            after.append(progress)
        if progress.stage == stage:
            abort.trigger("by a person")
        report(executor, progress)

    monkeypatch.setattr(HospitalExecutor, "_report", watch)
    assert ask(TRAIN, abort=abort).get_return_code() == ReturnCode.TASK_ABORTED
    assert after == []


def test_a_note_that_cannot_be_written_does_not_keep_the_answer_back(ask):
    (ask.state / ERRORS).mkdir(parents=True)
    assert answer_from_shareable(ask("steal"), "north") == Failure("north", "unknown-task")


def test_a_state_folder_that_cannot_be_written_is_a_failure_with_its_code(ask):
    ask.state.write_text("a file where the folder should be")
    assert answer_from_shareable(ask(TRAIN), "north") == Failure("north", "cannot-write")
