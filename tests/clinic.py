"""A clinic of random patients, and jobs on its table, for attacks by one job after the other."""

from pathlib import Path

import numpy as np
import torch
from tests.conftest import ROOT
from tests.federations import OPEN

from consortium.client.trainer import LocalTrainer
from consortium.core.json_files import read_json_object
from consortium.core.site_policy import Privacy, Site
from consortium.models.networks import build_network
from consortium.settings.base import override
from consortium.tasks.registry import parse_settings
from consortium.tasks.tables import PATIENT, SPLIT, write_table

HEART = ROOT / "jobs" / "heart_disease" / "app" / "config" / "settings.json"
NUMBERS = ("age", "trestbps", "chol", "thalach", "oldpeak")
CATEGORIES = {"sex": 2, "cp": 4, "fbs": 2, "restecg": 3, "exang": 2}
OUTCOME = "num"
COLUMNS = (*NUMBERS, *CATEGORIES, OUTCOME)
RELEASED = {
    "age": [0, 120],
    "trestbps": [0, 300],
    "chol": [0, 1000],
    "thalach": [0, 300],
    "oldpeak": [-10, 20],
    "sex": ["0", "1"],
    "cp": ["1", "2", "3", "4"],
    "fbs": ["0", "1"],
    "restecg": ["0", "1", "2"],
    "exang": ["0", "1"],
    "num": ["0", "1", "2", "3", "4"],
}
"""What the clinic releases to the job `heart_disease`."""


def heart(*assignments):
    """The settings of the job on tables, with one short round."""
    raw = read_json_object(HEART)
    return parse_settings(override(raw, ["rounds=1", "training.local_steps=5", *assignments]))


class Clinic:
    """A hospital with a table; every job has a state of its own, and one home serves all.

    Args:
        folder: for the table and the hospital's files.
        patients: number of patients.
        validation: number of the last patients that the column `split` sets aside; None writes no
            such column, so that the hospital's split decides.
    """

    def __init__(self, folder: Path, patients: int = 60, validation: int | None = None, seed=0):
        generator = np.random.default_rng(seed)
        self.folder, self.rows = folder, {}
        for number in range(patients):
            row = {
                "age": f"{generator.integers(29, 78)}",
                "trestbps": f"{generator.integers(94, 200)}",
                "chol": f"{generator.integers(126, 564)}",
                "thalach": f"{generator.integers(71, 202)}",
                "oldpeak": f"{generator.integers(0, 62) / 10}",
            }
            for name, count in CATEGORIES.items():
                row[name] = f"{generator.integers(count) + (name == 'cp')}"
            row[OUTCOME] = f"{generator.integers(5) * generator.integers(2)}"
            if validation is not None:
                row[SPLIT] = "validation" if number >= patients - validation else "training"
            self.rows[f"P{number:03d}"] = row
        self.write()

    def write(self):
        """Writes the table as its rows are now."""
        columns = [PATIENT, *next(iter(self.rows.values()))]
        rows = [[name, *row.values()] for name, row in self.rows.items()]
        write_table(self.folder / "data" / "patients.csv", columns, rows)

    def site(self, run="run", **privacy):
        """The hospital's choices for a run; they release all columns unless told otherwise."""
        return Site(
            "north",
            self.folder / "data",
            self.folder / "state" / run,
            smallest_group=5,
            privacy=Privacy(**privacy) if privacy else OPEN,
            home=self.folder / "home",
        )

    def open(self, settings, run="run", **privacy):
        """Opens a job at the hospital, as its process does."""
        return LocalTrainer(self.site(run, **privacy), settings, device=torch.device("cpu"))


def start_of(settings):
    """A model to start from."""
    return {
        name: part.clone() for name, part in build_network(settings, seed=5).state_dict().items()
    }


def stated_means(trainer, settings):
    """What a hospital states in round 0: its training patients, and the mean of each number."""
    base = start_of(settings)
    update = trainer.train(base, 0)
    mean = update.tensors["0.running_mean"].double() + base["0.running_mean"].double()
    return update.cases, mean[: len(settings.data.numbers)].numpy()


def patient_between(first, second, settings):
    """The numbers of the patient by whom two statements differ; None if they differ by another."""
    (many, mean), (few, other) = sorted((first, second), key=lambda stated: -stated[0])
    if many - few != 1:
        return None
    ends = np.array(list(settings.data.numbers.values()))
    return (mean * many - other * few) * (ends[:, 1] - ends[:, 0]) + ends[:, 0]


def found(clinic, numbers):
    """The patients whose numbers these are."""
    return [
        patient
        for patient, row in clinic.rows.items()
        if numbers is not None
        and all(abs(float(row[name]) - n) < 0.5 for name, n in zip(NUMBERS, numbers, strict=True))
    ]


def scored_rows(clinic, settings):
    """The validation patients' inputs, as who knows their columns has them, and their outcomes."""
    data = settings.data
    rows = [row for row in clinic.rows.values() if row[SPLIT] == "validation"]
    inputs = [
        [(float(row[name]) - low) / (high - low) for name, (low, high) in data.numbers.items()]
        + [float(row[name] == v) for name, values in data.categories.items() for v in values[1:]]
        for row in rows
    ]
    return np.array(inputs), np.array([row[OUTCOME] != "0" for row in rows])


def model_that_predicts(inputs, positive, settings):
    """A model that calls the chosen patients ill; the others keep an order of their own.

    Args:
        inputs: of the patients, as many as the model has weights at most.
        positive: whether a patient is called ill (patients,).
        settings: the job's.
    """
    design = np.hstack([inputs, np.ones((len(inputs), 1))])
    logits = np.linspace(-2, -1, len(inputs)) + 3 * np.asarray(positive)
    weights = np.linalg.lstsq(design, logits, rcond=None)[0]
    model = start_of(settings)
    model["0.running_mean"].zero_()
    model["0.running_var"].fill_(1.0)
    model["1.weight"][0] = torch.tensor(weights[:-1])
    model["1.bias"][0] = float(weights[-1])
    return model
