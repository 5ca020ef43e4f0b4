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
    """The outcome that is predicted for a patient.

    Attributes:
        column: column of the table that holds the outcome.
        classes: name of each of the two classes, and the values in the column that make it up; the
            model predicts the probability of the second.
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
    """The columns of a hospital's table (`patients.csv`), and how they become numbers.

    Attributes:
        numbers: columns of numbers, with the lowest and the highest plausible value in the job's
            unit; these become 0 and 1. A value outside is refused, for it may be in another unit.
        categories: columns of categories, with all their values. The first value is the reference;
            each other value becomes an input that is 0 or 1.
        outcome: the outcome that is predicted.
        validation_fraction: share of patients for validation, chosen by a hash of the patient's
            id, if the table has no column `split`.
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
            raise ValueError("a column has one use; patient and split are reserved")
        if not self.inputs:
            raise ValueError("numbers or categories: name at least one column")
        for name, (low, high) in self.numbers.items():
            if low >= high:
                raise ValueError(f"numbers.{name}: give the lowest value, then the highest")
        for name, values in self.categories.items():
            if len(set(values)) < len(values):
                raise ValueError(f"categories.{name}: a value is listed twice")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the table that the job reads, in the order of the settings."""
        return (*self.numbers, *self.categories, self.outcome.column)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The network's inputs: the numbers, then every category except its column's first."""
        categories = (
            f"{name} {value}" for name, values in self.categories.items() for value in values[1:]
        )
        return (*self.numbers, *categories)


class Logistic(Section):
    """A logistic regression over standardised inputs.

    Attributes:
        name: the only network of this task.
    """

    name: Literal["logistic"] = "logistic"


class TabularTraining(Training):
    """A hospital's training on a table in one round.

    Attributes:
        batch: patients in one step.
    """

    batch: Count = 4
    learning_rate: Positive = 1e-3
    final_learning_rate: Fraction = 1.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip: Positive = 100.0
    optimiser: Optimiser = "sgd"


class TabularSettings(Settings):
    """The settings of a job that predicts an outcome from a table of patients.

    With `update.buffers` `averaged` the numbers are standardised by the mean and variance over all
    hospitals' training patients, and every hospital can use the model. With `local` all inputs are
    standardised by the hospital's own statistics, which never leave it.
    """

    listing: ClassVar[str] = "patients.csv"
    task: Literal["tabular"]
    data: Table
    network: Logistic = Logistic()
    training: TabularTraining = TabularTraining()

    @property
    def scored(self) -> ScoreSpec:
        """Accuracy, and the AUROC if there are patients of both classes."""
        return ScoreSpec(
            (
                MetricSpec(name=ACCURACY, figure=ACCURACY, headline=True),
                MetricSpec(name=AUROC, figure=AUROC, required=False),
            ),
            tuple(self.data.outcome.classes),
        )

    @property
    def has_statistics(self) -> bool:
        """The statistics that standardise the inputs."""
        return True


SETTINGS = TabularSettings
