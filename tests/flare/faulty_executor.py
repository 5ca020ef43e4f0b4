"""An executor that misbehaves by hospital and round; travels in a job's own code."""

import os
import time
from dataclasses import replace
from pathlib import Path

import torch

from consortium.flare.executor import HospitalExecutor
from consortium.flare.job import RUN_FOLDER
from consortium.training.train import Hospital

FAULTS = {
    ("harbour", 0): "wrong-shape",
    ("harbour", 1): "not-finite",
    ("harbour", 2): "wrong-round",
    ("valley", 0): "raise",
    ("valley", 1): "wrong-base",
    ("valley", 2): "missing-tensor",
}


class FaultyExecutor(HospitalExecutor):
    """Spoils what `HospitalExecutor` would send."""

    def _open(self, fl_ctx):
        hospital = super()._open(fl_ctx)
        name = fl_ctx.get_identity_name()
        train = Hospital.train.__get__(hospital)

        def spoiled(base, number):
            fault = FAULTS.get((name, number))
            if fault == "raise":
                raise RuntimeError("-".join(["PLANTED", "Jane", "Doe"]) + " was born on 7 May")
            update = train(base, number)
            first = next(iter(update.tensors))
            tensor = update.tensors[first]
            if fault == "wrong-shape":
                return replace(update, tensors={**update.tensors, first: torch.zeros(7)})
            if fault == "not-finite":
                spoiled_tensor = torch.full_like(tensor, torch.nan)
                return replace(update, tensors={**update.tensors, first: spoiled_tensor})
            if fault == "wrong-round":
                return replace(update, round=0)
            if fault == "wrong-base":
                return replace(update, base_sha256="0" * 64)
            if fault == "missing-tensor":
                rest = {key: value for key, value in update.tensors.items() if key != first}
                return replace(update, tensors=rest)
            return update

        hospital.train = spoiled
        return hospital


class FadingExecutor(HospitalExecutor):
    """Says that every model is worse than the one before."""

    def _open(self, fl_ctx):
        hospital = super()._open(fl_ctx)
        train = Hospital.train.__get__(hospital)

        def fading(base, number):
            update = train(base, number)
            score = update.metrics.validation.model_copy(
                update={"dice": {"tumour": 1 / (2 + number)}}
            )
            metrics = update.metrics.model_copy(update={"validation": score})
            return replace(update, metrics=metrics)

        hospital.train = fading
        return hospital


class AtValley(HospitalExecutor):
    """Does something more at valley, before or after it has trained."""

    def before(self, number):
        pass

    def after(self, number):
        pass

    def _open(self, fl_ctx):
        hospital = super()._open(fl_ctx)
        train = Hospital.train.__get__(hospital)

        def train_at_valley(base, number):
            self.before(number)
            update = train(base, number)
            self.after(number)
            return update

        if fl_ctx.get_identity_name() == "valley":
            hospital.train = train_at_valley
        return hospital


class StumblingExecutor(AtValley):
    """Fails at valley in round 2, the first time it is asked."""

    stumbled = False

    def before(self, number):
        if number == 1 and not self.stumbled:
            self.stumbled = True
            raise MemoryError


class FailingExecutor(AtValley):
    """Fails at valley from round 2 on."""

    def before(self, number):
        if number >= 1:
            raise MemoryError


class SlowExecutor(AtValley):
    """Answers at valley in round 2 only when that round has been closed without it."""

    def after(self, number):
        if number == 1:
            rounds = Path(os.environ[RUN_FOLDER]) / "rounds.jsonl"
            while len(rounds.read_text().splitlines()) < 2:
                time.sleep(0.05)
