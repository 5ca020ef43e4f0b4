"""The settings of a job that predicts an outcome from a table of patients."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from consortium.protocol.metrics import MetricSpec, ScoreSpec
from consortium.settings.base import (
    Count,
    Fraction,
    Optimiser,
    Positive,
    Section,
    Settings,
    Training,
)

ACCURACY, AUROC = "accuracy", "AUROC"
"""The figures of a score."""


class Outcome(Section):
    """What is predicted of a patient.

    Attributes:
        column: of the table.
        classes: name of each class and the values in the column that make it up; two, of which the
            second is the one that is looked for.
    """

    column: Annotated[str, Field(min_length=1)]
    classes: Annotated[
        dict[str, Annotated[list[str], Field(min_length=1)]], Field(min_length=2, max_length=2)
    ]

    @model_validator(mode="after")
    def _consistent(self) -> "Outcome":
        values = [value for group in self.classes.values() for value in group]
        if len(set(values)) < len(values):
            raise ValueError("classes: a value belongs to one class")
        return self


class Table(Section):
    """What a hospital's table (`patients.csv`) holds and how it becomes numbers.

    Attributes:
        numbers: columns of numbers, with the least and the largest value that makes sense in the
            job's unit, which become 0 and 1; what lies outside is refused as given in another unit.
        categories: columns of categories, with all values they may have. The first is what the
            others are compared with: each of them becomes an input that is 0 or 1.
        outcome: what is predicted.
        validation_fraction: share of patients, chosen by a hash of the patient's id, where the
            table has no column `split`.
    """

    numbers: dict[str, Annotated[list[float], Field(min_length=2, max_length=2)]] = Field(
        default={}
    )
    categories: dict[str, Annotated[list[str], Field(min_length=2)]] = Field(default={})
    outcome: Outcome
    validation_fraction: Fraction = 0.2

    @model_validator(mode="after")
    def _consistent(self) -> "Table":
        names = [*self.numbers, *self.categories, self.outcome.column, "patient", "split"]
        if len(set(names)) < len(names):
            raise ValueError("a column has one use; patient and split have theirs")
        if not self.inputs:
            raise ValueError("numbers or categories: name a column")
        for name, (low, high) in self.numbers.items():
            if low >= high:
                raise ValueError(f"numbers.{name}: the least value, then the largest")
        for name, values in self.categories.items():
            if len(set(values)) < len(values):
                raise ValueError(f"categories.{name}: a value is there twice")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the table, that the job reads, in the order of the settings."""
        return (*self.numbers, *self.categories, self.outcome.column)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Of the network: the numbers, then every category but the first of its column."""
        later = (f"{name} {value}" for name, of in self.categories.items() for value in of[1:])
        return (*self.numbers, *later)


class Logistic(Section):
    """A logistic regression over standardised inputs.

    Attributes:
        name: `logistic`.
    """

    name: Literal["logistic"] = "logistic"


class TabularTraining(Training):
    """A hospital's work in one round, on a table.

    Attributes:
        batch: patients a step.
    """

    batch: Count = 4
    learning_rate: Positive = 1e-3
    final_learning_rate: Fraction = 1.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip: Positive = 100.0
    optimiser: Optimiser = "sgd"


class TabularSettings(Settings):
    """Of a job that predicts an outcome from a table of patients.

    With `update.buffers` `averaged` the inputs that are numbers are standardised by mean and
    variance over all hospitals' training patients, and the model serves everybody; `local`: all
    inputs by the hospital's own, which never leave it.
    """

    listing: ClassVar[str] = "patients.csv"
    task: Literal["tabular"]
    data: Table
    network: Logistic = Logistic()
    training: TabularTraining = TabularTraining()

    @property
    def scored(self) -> ScoreSpec:
        """Accuracy, and the AUROC where there are patients of both classes."""
        return ScoreSpec(
            (
                MetricSpec(name=ACCURACY, figure=ACCURACY, headline=True),
                MetricSpec(name=AUROC, figure=AUROC, required=False),
            ),
            tuple(self.data.outcome.classes),
        )

    @property
    def has_statistics(self) -> bool:
        """Those that standardise the inputs."""
        return True


SETTINGS = TabularSettings
