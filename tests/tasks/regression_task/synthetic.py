"""Generates stays."""

from dataclasses import dataclass

import numpy as np

from consortium.tasks.synthetic import Synthetic
from consortium.tasks.tables import PATIENT, SIDES, SPLIT, write_table


@dataclass(frozen=True)
class Ward:
    """A hospital."""

    name: str
    patients: int
    held_out: int


WARDS = (Ward("east", 30, 12), Ward("west", 20, 10))


def generate(out, request):
    """Writes one folder for each ward."""
    for number, ward in enumerate(WARDS):
        numbers = np.random.default_rng([request.seed, number])
        rows = []
        for index in range(ward.patients + ward.held_out):
            age, marker = numbers.uniform(0, 1, 2)
            days = 3 + 4 * age - 2 * marker + numbers.normal(0, 0.5)
            side = SIDES[index >= ward.patients]
            rows.append(
                [f"{ward.name}-{index}", f"{age:.3f}", f"{marker:.3f}", f"{days:.3f}", side]
            )
        (out / ward.name).mkdir(parents=True)
        write_table(out / ward.name / "stays.csv", [PATIENT, "age", "marker", "days", SPLIT], rows)
    return WARDS


SYNTHETIC = Synthetic(patients="stays", likes=("ward",), generate=generate, rounds=3)
