"""Executors that misbehave by hospital and round; a job brings them in its own code."""

import os
import time
from dataclasses import replace
from pathlib import Path

import torch

from consortium.client.trainer import LocalTrainer
from consortium.flare.client.executor import HospitalExecutor
from consortium.flare.job import RUN_FOLDER

FAULTS = {
    ("harbour", 0): "wrong-shape",
    ("harbour", 1): "not-finite",
    ("harbour", 2): "wrong-round",
    ("valley", 0): "raise",
    ("valley", 1): "wrong-base",
    ("valley", 2): "missing-tensor",
}


class FaultyHospital(LocalTrainer):
    def train(self, base, round_number):
        fault = FAULTS.get((self._site.name, round_number))
        if fault == "raise":
            raise RuntimeError("-".join(["PLANTED", "Jane", "Doe"]) + " was born on 7 May")
        update = super().train(base, round_number)
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


class FaultyExecutor(HospitalExecutor):
    """Corrupts the answer of `HospitalExecutor`."""

    hospital = "faulty_executor:FaultyHospital"


class AtValley(LocalTrainer):
    """Runs an additional step at valley, before or after its training."""

    def before(self, number):
        pass

    def after(self, number):
        pass

    def train(self, base, round_number):
        if self._site.name != "valley":
            return super().train(base, round_number)
        self.before(round_number)
        update = super().train(base, round_number)
        self.after(round_number)
        return update


class FailingHospital(AtValley):
    def before(self, number):
        if number >= 1:
            raise MemoryError


class FailingExecutor(HospitalExecutor):
    """Fails at valley from round 2 on."""

    hospital = "faulty_executor:FailingHospital"


class SlowHospital(AtValley):
    def after(self, number):
        if number == 1:
            rounds = Path(os.environ[RUN_FOLDER]) / "rounds.jsonl"
            while len(rounds.read_text().splitlines()) < 2:
                time.sleep(0.05)


class SlowExecutor(HospitalExecutor):
    """Answers at valley in round 2 only after that round was closed without it."""

    hospital = "faulty_executor:SlowHospital"
