"""The hospital's executor with a stand-in for FLARE's context; `test_simulation` has the real."""

import json
import logging
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from nvflare.apis.dxo import from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.signal import Signal
from tests.client.misbehaving import where

from consortium.core.errors import Failure
from consortium.core.site_policy import ERRORS, Site, simulated_privacy
from consortium.flare.client import executor as executor_module
from consortium.flare.client.executor import HospitalExecutor
from consortium.flare.job import Job
from consortium.flare.server import answers
from consortium.flare.server.answers import model_to_shareable
from consortium.flare.wire import take_arrays
from consortium.models.networks import build_network
from consortium.protocol.compression import ResidualStore
from consortium.protocol.pipeline import Pipeline, build_pipeline
from consortium.protocol.requests import LOCAL_MODEL, TRAIN, WITHOUT
from consortium.protocol.update import Update
from consortium.settings.base import UpdateSettings


@pytest.fixture
def opened(generated, tmp_path, tiny, monkeypatch):
    """Opens an executor of the hospital north, given changes of the settings."""
    plain_site = Site(
        "north",
        generated / "north",
        tmp_path / "state",
        smallest_group=1,
        privacy=simulated_privacy(1),
    )
    context = SimpleNamespace(get_identity_name=lambda: "north")
    executor = HospitalExecutor()

    def open_with(*assignments, share=False):
        site = replace(plain_site, share_local_model=share)
        settings = tiny("training.local_steps=20", "rounds=3", *assignments)
        job = Job("run", "job", ("north",), {}, (), settings, tmp_path, tmp_path)
        monkeypatch.setattr(executor_module, "read_job", lambda fl_ctx: job)
        monkeypatch.setattr(executor_module, "find_site", lambda job, fl_ctx: site)
        base = build_network(settings, seed=1).state_dict()

        def ask(task, *, abort=None, model=base, hospital=HospitalExecutor.hospital, **meta):
            executor.hospital = hospital
            data = model_to_shareable(model, **({"round": 0, "rounds": 3} | meta))
            return executor.execute(task, data, context, abort or Signal())

        ask.state = site.state
        return ask

    yield open_with
    executor.handle_event(EventType.END_RUN, context)


@pytest.fixture
def ask(opened):
    """Sends a task to the executor."""
    return opened()


def answer_from_shareable(reply, sender, pipeline=Pipeline()):  # noqa: B008
    return answers.answer_from_shareable(reply, sender, pipeline)


def test_a_round_is_answered_with_an_update(ask):
    update = answer_from_shareable(ask(TRAIN), "north")
    assert isinstance(update, Update)
    assert (update.round, update.hospital) == (0, "north")


def test_an_aborted_task_is_answered_as_such(ask):
    abort = Signal()
    abort.trigger("by a person")
    assert ask(TRAIN, abort=abort).get_return_code() == ReturnCode.TASK_ABORTED


def test_an_error_leaves_as_a_code_and_its_text_stays_at_the_hospital(ask, caplog, capfd):
    with caplog.at_level(logging.DEBUG):
        answer = ask(TRAIN, hospital=where("Careless"))
    assert answer_from_shareable(answer, "north") == Failure("north", "internal-error")
    assert "Jane" not in json.dumps(answer, default=str)
    assert "Jane" not in caplog.text + "".join(capfd.readouterr())
    assert "error internal-error: see the hospital's own errors.log" in caplog.text
    log = (ask.state / ERRORS).read_text()
    assert "RuntimeError: patient Jane Doe in /srv/scans" in log
    assert "Traceback" in log


def test_a_hospital_that_does_not_share_its_model_answers_so(ask):
    answer = answer_from_shareable(ask(LOCAL_MODEL), "north")
    assert answer == Failure("north", "not-shared")
    assert (
        "error not-shared: this hospital does not share its model"
        in (ask.state / ERRORS).read_text()
    )


def test_an_unknown_task_is_a_failure(ask):
    assert answer_from_shareable(ask("steal"), "north") == Failure("north", "unknown-task")


def test_a_name_that_is_no_text_is_noted_too(ask, caplog):
    answer = ask(TRAIN, hospital=where("WithAStrangeFile"))
    assert answer_from_shareable(answer, "north") == Failure("north", "unreadable-file")
    assert "Jane" not in caplog.text
    assert "Jane?.nii.gz" in (ask.state / ERRORS).read_text()


def test_a_note_that_cannot_be_written_does_not_keep_the_answer_back(ask):
    (ask.state / ERRORS).mkdir(parents=True)
    assert answer_from_shareable(ask("steal"), "north") == Failure("north", "unknown-task")


def test_a_state_folder_that_cannot_be_written_is_a_failure_with_its_code(ask):
    ask.state.write_text("a file where the folder should be")
    assert answer_from_shareable(ask(TRAIN), "north") == Failure("north", "cannot-write")


def test_a_process_that_dies_at_every_try_is_a_failure(ask):
    answer = answer_from_shareable(ask(TRAIN, hospital=where("Doomed")), "north")
    assert answer == Failure("north", "training-died")


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_an_update_is_compressed_and_its_residual_is_added_to_the_next(kind, opened):
    ask = opened("network.features=[16, 32]", f"update.compression={kind}", share=True)
    pipeline = build_pipeline(UpdateSettings(compression=kind))
    for task, number in ((TRAIN, 0), (TRAIN, 1), (LOCAL_MODEL, 2)):
        reply = ask(task, round=number)
        arrays = take_arrays(from_shareable(reply).data)
        codes = arrays["float32.codes"]
        assert codes.itemsize == {"bfloat16": 2, "int8": 1}[kind]
        assert codes.size > 10 * arrays["float32"].size
        update = answer_from_shareable(reply, "north", pipeline)
        assert (update.round, update.hospital) == (number, "north")
        residual = ResidualStore(ask.state).load(before_round=number + 1)
        assert residual.size == codes.size
        assert 0 < np.abs(residual).max() < 0.01
        refusal = answer_from_shareable(reply, "north")
        assert (refusal.hospital, refusal.code) == ("north", "malformed")


def test_a_training_without_one_hospital_leaves_the_residual_of_the_run_alone(opened):
    ask = opened("network.features=[16, 32]", "update.compression=int8")
    ask(TRAIN, round=0)
    before = {path.name: path.read_bytes() for path in ask.state.glob("residual-*")}
    update = answer_from_shareable(ask(WITHOUT, round=0), "north")
    assert isinstance(update, Update)
    assert {path.name: path.read_bytes() for path in ask.state.glob("residual-*")} == before


def test_an_update_whose_residual_cannot_be_written_does_not_leave(opened):
    ask = opened("network.features=[16, 32]", "update.compression=int8")
    (ask.state / "residual-000000.safetensors").mkdir(parents=True)
    answer = answer_from_shareable(ask(TRAIN), "north")
    assert answer == Failure("north", "cannot-write")
    assert "cannot-write" in (ask.state / ERRORS).read_text()
