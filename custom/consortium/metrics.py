"""What a hospital says of a model beside tensors; nothing here needs torch."""

from collections.abc import Collection
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]


class Score(BaseModel):
    """A metric over a hospital's patients, or the statement that it is withheld.

    Attributes:
        patients: number of patients; null where withheld.
        dice: mean over these patients of each structure's Dice; null where withheld.
        interval: 95 % bootstrap interval of each of these means; null where withheld, and for one
            patient.
        withheld: why nothing is said of so few patients, in these words alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    patients: Annotated[int, Field(ge=1)] | None = None
    dice: dict[str, Fraction] | None = None
    interval: dict[str, Annotated[list[Fraction], Field(min_length=2, max_length=2)]] | None = None
    withheld: Annotated[str, Field(pattern=r"^fewer than \d{1,6} patients$")] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> "Score":
        if len({self.dice is None, self.patients is None, self.withheld is not None}) > 1:
            raise ValueError("either dice and patients or withheld")
        if self.interval is not None:
            if self.dice is None or self.interval.keys() != self.dice.keys():
                raise ValueError("an interval of each Dice or of none")
            if any(low > high for low, high in self.interval.values()):
                raise ValueError("an interval from its lower to its upper end")
        return self

    @property
    def mean_dice(self) -> float | None:
        """Mean over the structures, or None where withheld."""
        return sum(self.dice.values()) / len(self.dice) if self.dice else None


class Metrics(BaseModel):
    """What a hospital says of a round beside its tensors.

    Attributes:
        loss: mean training loss over the round's steps; null where withheld or not trained.
        steps: optimiser steps that were taken; null where not trained.
        seconds: duration of the local training.
        validation: score of the round's base on the hospital's own validation patients; null
            where it has none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    loss: float | None = None
    steps: Annotated[int | None, Field(ge=1)] = None
    seconds: Annotated[float, Field(ge=0)] = 0.0
    validation: Score | None = None

    def fit(self, structures: Collection[str], max_cases: int) -> bool:
        """Whether a score is of the job's structures and over a plausible number of patients."""
        score = self.validation
        if score is None or score.dice is None or score.patients is None:
            return True
        return set(score.dice) == set(structures) and score.patients <= max_cases
