"""The ranges of a job's settings that a hospital accepts; the job's own file cannot change them."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat


def _ordered(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError("give the lowest value, then the highest")
    return limits


Range = Annotated[tuple[FiniteFloat, FiniteFloat], AfterValidator(_ordered)]
"""The lowest and the highest value, both accepted."""


class TrainingLimits(BaseModel):
    """Ranges of the section `training` of a job's settings; see `consortium.settings.base`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    local_steps: Range = (1, 100_000)
    local_epochs: Range = (0, 1_000)
    local_minutes: Range = (0, 1_440)
    batch: Range = (1, 1_024)
    learning_rate: Range = (0, 0.5)
    weight_decay: Range = (0, 1)
    clip: Range = (0, 100)


class SettingLimits(BaseModel):
    """Ranges of a job's settings, with the names and the nesting of `settings.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rounds: Range = (1, 1_000)
    training: TrainingLimits = Field(default_factory=TrainingLimits)

    def outside(self, settings: Mapping[str, Any]) -> str | None:
        """Returns the first setting that is outside its range, in words; None if none is.

        Args:
            settings: a job's settings with all defaults, as plain values. None is in every range.
        """
        return next(_outside(self.model_dump(), settings, ""), None)


def _outside(limits: Mapping[str, Any], values: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name, limit in limits.items():
        value = values[name]
        if isinstance(limit, Mapping):
            yield from _outside(limit, value, f"{prefix}{name}.")
        elif value is not None and not limit[0] <= value <= limit[1]:
            low, high = (f"{end:.10g}" for end in limit)
            yield f"{prefix}{name} is {value:.10g}; this hospital accepts {low} to {high}"
