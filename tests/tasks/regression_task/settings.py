"""The settings of a job that predicts a number."""

from typing import ClassVar, Literal

from consortium.protocol.metrics import MetricSpec, ScoreSpec
from consortium.settings.base import Section, Settings, Training

WITHIN, ERROR = "within tolerance", "mean error"


class Stays(Section):
    """The columns of a hospital's `stays.csv`."""

    inputs: list[str] = ["age", "marker"]  # noqa: RUF012 (pydantic copies it)
    tolerance: float = 2.0


class Line(Section):
    """A linear regression."""

    name: Literal["line"] = "line"


class RegressionSettings(Settings):
    """The settings of a job that predicts days."""

    listing: ClassVar[str] = "stays.csv"
    task: Literal["regression"]
    data: Stays = Stays()
    network: Line = Line()
    training: Training = Training()

    @property
    def scored(self):
        """The share of patients within the tolerance, and the mean error in days."""
        return ScoreSpec(
            (
                MetricSpec(name=WITHIN, figure=WITHIN, headline=True),
                MetricSpec(name=ERROR, figure=ERROR, high=None),
            )
        )

    @property
    def has_statistics(self):
        """Whether the network has running statistics: no."""
        return False


SETTINGS = RegressionSettings
