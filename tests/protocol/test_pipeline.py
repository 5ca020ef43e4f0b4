"""Steps run in order from the hospital to the orchestrator; some cannot be combined."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from tests.conftest import JOB

from consortium.aggregation import RULES
from consortium.core.errors import UsageError
from consortium.core.json_files import read_json_object
from consortium.protocol import pipeline as pipelines
from consortium.protocol.codec import digest
from consortium.protocol.compression import Compression
from consortium.protocol.metrics import Metrics
from consortium.protocol.pipeline import Pipeline, build_pipeline
from consortium.protocol.step import Step
from consortium.protocol.update import Update, update_from_wire, update_to_wire
from consortium.settings.base import Aggregation, UpdateSettings
from consortium.study.job_folder import SETTINGS, prepare_job
from consortium.tasks.registry import parse_settings

UPDATE = Update(
    "north", 3, "a" * 64, 5, {"w": torch.randn(40, 40), "n": torch.tensor(7)}, Metrics()
)


class Doubling(Step):
    """Replaces values and adds a field."""

    name = "doubling"

    def client(self, buffers, plain, folder):
        return {key: flat * 2 for key, flat in buffers.items()}, {**plain, self.name: True}

    def server(self, buffers, plain):
        if plain.get(self.name) is not True:
            raise ValueError("not doubled")
        rest = {key: value for key, value in plain.items() if key != self.name}
        return {key: (flat / 2).astype(flat.dtype) for key, flat in buffers.items()}, rest


class Adding(Step):
    """Does not commute with `Doubling`."""

    name = "adding"

    def client(self, buffers, plain, folder):
        return {key: flat + 1 for key, flat in buffers.items()}, plain

    def server(self, buffers, plain):
        return {key: flat - 1 for key, flat in buffers.items()}, plain


class Hiding(Step):
    name = "hiding"
    hides_updates = True

    def client(self, buffers, plain, folder):
        return buffers, plain

    def server(self, buffers, plain):
        return buffers, plain


def test_a_job_has_the_steps_that_its_settings_ask_for():
    assert build_pipeline(UpdateSettings()) == Pipeline()
    assert build_pipeline(UpdateSettings(compression="int8")) == Pipeline((Compression("int8"),))


@pytest.mark.parametrize("kind", [None, "bfloat16", "int8"])
def test_an_update_is_restored_except_for_rounding(kind, tmp_path):
    pipeline = Pipeline((Doubling(), *build_pipeline(UpdateSettings(compression=kind)).steps))
    sent = pipeline.client(*update_to_wire(UPDATE), tmp_path)
    back = update_from_wire(*pipeline.server(*sent), "north")
    assert (back.cases, back.metrics, back.tensors["n"]) == (5, Metrics(), 7)
    atol = 0 if kind is None else 0.05
    torch.testing.assert_close(back.tensors["w"], UPDATE.tensors["w"], atol=atol, rtol=0)


def test_without_steps_an_update_is_not_changed(tmp_path):
    buffers, plain = update_to_wire(UPDATE)
    assert Pipeline().client(buffers, plain, tmp_path) == (buffers, plain)
    back = update_from_wire(*Pipeline().server(buffers, plain), "north")
    assert digest(back.tensors) == digest(UPDATE.tensors)
    assert not list(tmp_path.iterdir())


def test_steps_are_applied_in_order_and_undone_in_reverse(tmp_path):
    pipeline = Pipeline((Doubling(), Adding()))
    buffers = {"int64": np.array([3, 5])}
    sent, plain = pipeline.client(buffers, {"round": 0}, tmp_path)
    assert (sent["int64"].tolist(), plain) == ([7, 11], {"round": 0, "doubling": True})
    back, plain = pipeline.server(sent, plain)
    assert (back["int64"].tolist(), plain) == ([3, 5], {"round": 0})


@pytest.mark.parametrize("plain", [None, 5, "text", [], {}, {"doubling": 5}])
def test_what_does_not_fit_a_step_is_refused(plain):
    with pytest.raises(ValueError, match=r"malformed|not doubled"):
        Pipeline((Doubling(),)).server({}, plain)


def test_a_training_outside_the_run_omits_steps_that_keep_state():
    assert Pipeline((Doubling(), Compression("int8"))).without_state().steps[0].name == "doubling"
    assert Pipeline((Compression("int8"),)).without_state() == Pipeline()


@pytest.mark.parametrize(
    ("steps", "inspects", "message"),
    [
        ((Doubling(), Hiding()), True, "multi_krum reads single updates and hiding hides them"),
        ((Compression("int8"), Hiding()), False, "compression reads single updates and hiding"),
    ],
)
def test_a_combination_that_cannot_work_is_refused(steps, inspects, message):
    with pytest.raises(ValueError, match=message):
        Pipeline(steps).check("multi_krum", needs_plain_updates=inspects)


@pytest.mark.parametrize(
    ("steps", "inspects"),
    [
        ((Doubling(), Hiding()), False),
        ((Hiding(), Doubling()), False),
        ((Compression("int8"),), True),
    ],
)
def test_a_combination_that_works_passes(steps, inspects):
    Pipeline(steps).check("weighted_mean", needs_plain_updates=inspects)


def test_settings_and_a_job_of_steps_that_do_not_go_together_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pipelines, "STEPS", (lambda settings: Hiding(),))
    raw = read_json_object(JOB / SETTINGS)
    assert parse_settings({**raw, "aggregation": "weighted_mean"}).rule.rule == "weighted_mean"
    raw["aggregation"] = "coordinate_median"
    with pytest.raises(UsageError, match="coordinate_median reads single updates and hiding"):
        parse_settings(raw)
    with pytest.raises(UsageError, match=r"error bad-setting: .* and hiding hides them"):
        prepare_job(JOB, tmp_path / "job", run="", hospitals=[], settings=raw)
    assert not (tmp_path / "job").exists()


@pytest.mark.parametrize("rule", RULES)
def test_settings_know_which_rules_inspect_single_updates(rule):
    inspects = RULES[rule].needs_plain_updates
    assert Aggregation(rule=rule).needs_plain_updates == inspects
    assert inspects or not RULES[rule].buffers_updates


def test_the_pipeline_needs_no_torch():
    code = "import sys, consortium.protocol.pipeline; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"
