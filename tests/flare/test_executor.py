"""The hospital's executor with a stand-in for FLARE's context; `test_simulation` has the real."""

import json
import logging
from types import SimpleNamespace

import pytest
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.signal import Signal
from tests.client.misbehaving import where

from consortium.core.errors import Failure
from consortium.core.site_policy import ERRORS, Site
from consortium.flare.client import executor as executor_module
from consortium.flare.client.executor import HospitalExecutor
from consortium.flare.job import Job
from consortium.flare.server.answers import answer_from_shareable, model_to_shareable
from consortium.models.networks import build_network
from consortium.protocol.requests import LOCAL_MODEL, TRAIN
from consortium.protocol.update import Update


@pytest.fixture
def ask(generated, tmp_path, tiny, monkeypatch):
    """Hands a task to the executor of the hospital north."""
    settings = tiny("training.local_steps=20", "rounds=3")
    site = Site("north", generated / "north", tmp_path / "state", smallest_group=1)
    job = Job("run", "job", ("north",), {}, (), settings, tmp_path, tmp_path)
    monkeypatch.setattr(executor_module, "read_job", lambda fl_ctx: job)
    monkeypatch.setattr(executor_module, "find_site", lambda job, fl_ctx: site)
    context = SimpleNamespace(get_identity_name=lambda: "north")
    base = build_network(settings, seed=1).state_dict()
    executor = HospitalExecutor()

    def ask(task, *, abort=None, model=base, hospital=HospitalExecutor.hospital, **meta):
        executor.hospital = hospital
        data = model_to_shareable(model, **({"round": 0, "rounds": 3} | meta))
        return executor.execute(task, data, context, abort or Signal())

    ask.state = site.state
    yield ask
    executor.handle_event(EventType.END_RUN, context)


def test_a_round_is_answered_with_an_update(ask):
    update = answer_from_shareable(ask(TRAIN), "north")
    assert isinstance(update, Update)
    assert (update.round, update.hospital) == (0, "north")


def test_an_aborted_task_is_answered_as_such(ask):
    abort = Signal()
    abort.trigger("by a person")
    assert ask(TRAIN, abort=abort).get_return_code() == ReturnCode.TASK_ABORTED


def test_an_error_crosses_as_a_code_and_is_told_in_full_at_the_hospital_alone(ask, caplog, capfd):
    with caplog.at_level(logging.DEBUG):
        answer = ask(TRAIN, hospital=where("Careless"))
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


def test_a_name_that_is_no_text_is_noted_too(ask, caplog):
    answer = ask(TRAIN, hospital=where("WithAStrangeFile"))
    assert answer_from_shareable(answer, "north") == Failure("north", "unreadable-file")
    assert "Jane" not in caplog.text
    assert "Jane\\udcfc.nii.gz" in (ask.state / ERRORS).read_text()


def test_a_note_that_cannot_be_written_does_not_keep_the_answer_back(ask):
    (ask.state / ERRORS).mkdir(parents=True)
    assert answer_from_shareable(ask("steal"), "north") == Failure("north", "unknown-task")


def test_a_state_folder_that_cannot_be_written_is_a_failure_with_its_code(ask):
    ask.state.write_text("a file where the folder should be")
    assert answer_from_shareable(ask(TRAIN), "north") == Failure("north", "cannot-write")


def test_a_process_that_dies_at_every_try_is_a_failure(ask):
    answer = answer_from_shareable(ask(TRAIN, hospital=where("Doomed")), "north")
    assert answer == Failure("north", "training-died")
