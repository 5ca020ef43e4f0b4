"""Generates tables of patients like those of several hospitals; none of the patients exists.

The columns are those of the job `heart_disease`. The risk of disease follows the same law
everywhere. The hospitals differ in size, in age, in the share of ill patients, in how a value is
measured, and in missing values. A hospital's bytes are a function of the seed and of its own
description.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from consortium.core.errors import UsageError
from consortium.core.files import whole_folder
from consortium.core.seeds import derive_seed
from consortium.tasks.synthetic import Request, Synthetic
from consortium.tasks.tables import PATIENT, SPLIT, write_table
from consortium.tasks.tabular.dataset import TABLE

COLUMNS = [
    "age",
    "sex",
    "cp",
    "trestbps",
    "chol",
    "fbs",
    "restecg",
    "thalach",
    "exang",
    "oldpeak",
    "num",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clinic:
    """A hospital and its patients.

    Attributes:
        name: name of its folder, and prefix of its patients' ids.
        patients: number of training patients.
        held_out: number of validation patients.
        age: mean age, years.
        excess_log_odds: excess risk of its patients over other hospitals, in log odds.
        pressure_bias: bias of its sphygmomanometers, mmHg.
        missing_share: share of the cholesterol values that are missing.
    """

    name: str
    patients: int
    held_out: int
    age: float
    excess_log_odds: float = 0.0
    pressure_bias: float = 0.0
    missing_share: float = 0.0


CLINICS = (
    Clinic(name="north", patients=140, held_out=60, age=54),
    Clinic(name="harbour", patients=90, held_out=40, age=48, pressure_bias=6, missing_share=0.02),
    Clinic(name="valley", patients=45, held_out=30, age=58, excess_log_odds=0.8),
    Clinic(
        name="hillside", patients=20, held_out=30, age=62, excess_log_odds=0.4, missing_share=0.04
    ),
)


def generate_tables(out: Path, clinics: Sequence[Clinic] = CLINICS, *, seed: int) -> None:
    """Writes one folder for each hospital.

    Args:
        out: a new or empty folder.
        clinics: the hospitals.
        seed: seed of all randomness.

    Raises:
        UsageError: `not-empty`.
    """
    if out.exists() and any(out.iterdir()):
        raise UsageError("not-empty", "the folder is not empty", str(out), "choose another one")
    for clinic in clinics:
        with whole_folder(out / clinic.name) as partial_folder:
            rows = _rows(clinic, seed)
            write_table(partial_folder / TABLE, [PATIENT, *COLUMNS, SPLIT], rows)


def _rows(clinic: Clinic, seed: int) -> list[list[str]]:
    rng = np.random.default_rng(derive_seed(seed, "tables", clinic.name))
    rows = []
    for number in range(clinic.patients + clinic.held_out):
        age = float(np.clip(rng.normal(clinic.age, 9), 25, 90))
        sex = int(rng.random() < 0.65)
        chest_pain = int(rng.choice(4, p=[0.08, 0.2, 0.27, 0.45])) + 1
        pressure = rng.normal(115 + 0.3 * age, 16) + clinic.pressure_bias
        cholesterol = rng.normal(245, 48)
        sugar = int(rng.random() < 0.15)
        ecg = int(rng.choice(3, p=[0.55, 0.1, 0.35]))
        effort = rng.random() < 0.2 + 0.15 * (chest_pain == 4)
        pulse = rng.normal(205 - age - 15 * effort, 18)
        depression = max(0.0, rng.normal(0.5 + 0.9 * effort, 0.8))
        log_odds = clinic.excess_log_odds + 2 * (
            -1.9
            + 0.05 * (age - 54)
            + 1.1 * sex
            + 1.7 * (chest_pain == 4)
            + 0.6 * effort
            + 0.8 * depression
            - 0.03 * (pulse - 150)
            + 0.004 * (cholesterol - 245)
        )
        ill = rng.random() < 1 / (1 + np.exp(-log_odds))
        grade = 1 + int(rng.choice(4, p=[0.4, 0.25, 0.25, 0.1])) if ill else 0
        missing = rng.random() < clinic.missing_share
        rows.append(
            [
                f"{clinic.name}-{number + 1:03d}",
                *(f"{age:.0f}", str(sex), str(chest_pain), f"{np.clip(pressure, 80, 220):.0f}"),
                *("?" if missing else f"{np.clip(cholesterol, 100, 500):.0f}", str(sugar)),
                *(str(ecg), f"{np.clip(pulse, 60, 210):.0f}", str(int(effort))),
                *(f"{depression:.1f}", str(grade)),
                "training" if number < clinic.patients else "validation",
            ]
        )
    return rows


def _generate(out: Path, request: Request) -> Sequence[Clinic]:
    generate_tables(out, seed=request.seed)
    return CLINICS


SYNTHETIC = Synthetic(patients="tables", likes=("heart",), generate=_generate)
