"""What a hospital tells for the confounding probe.

What always holds: a hospital tells of groups of its held-out patients alone, of no group smaller
than it lets out, and of each group once a run. What hospitals tell is taken only where it can be
true: known labels, the dimensions that the job declares, moments that a group can have.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from consortium.confounding.moments import Moments

Vector = Annotated[list[float], Field(min_length=1, max_length=64)]
Count = Annotated[int, Field(ge=1, le=100_000)]
_KINDS = ("scores", "features", "acquisition")


class GroupMoments(BaseModel):
    """`Moments` as they travel."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    count: Count
    mean: Vector
    scatter: Annotated[list[Vector], Field(min_length=1, max_length=64)]

    @classmethod
    def of(cls, told: Moments) -> "GroupMoments":
        """To send."""
        return cls(count=told.count, mean=told.mean.tolist(), scatter=told.scatter.tolist())

    def moments(self) -> Moments:
        """As received.

        Raises:
            ValueError: no group has them.
        """
        return Moments(self.count, np.array(self.mean, float), np.array(self.scatter, float))


ByLabel = Mapping[str, GroupMoments]


class ProbeStatistics(BaseModel):
    """Of one hospital; labels with fewer patients than it lets out are not there.

    Attributes:
        shares: training patients by label, scaled to the weight that the hospital has in the mean.
        scores: moments of the log-odds that the model gives each label, by true label.
        features: of the model's features on a few directions.
        acquisition: of what borders, histogram and sharpness show, on as many.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    shares: dict[str, Count] = {}
    scores: dict[str, GroupMoments] = {}
    features: dict[str, GroupMoments] = {}
    acquisition: dict[str, GroupMoments] = {}

    def fits(self, labels: Sequence[str], dimensions: int) -> bool:
        """Whether it can be an answer to a job's question.

        Args:
            labels: of the job.
            dimensions: most of features and acquisition.
        """
        if not self.shares.keys() <= set(labels):
            return False
        for kind in _KINDS:
            sizes = [len(labels)] if kind == "scores" else range(1, dimensions + 1)
            told: ByLabel = getattr(self, kind)
            if not told.keys() <= set(labels):
                return False
            if any(len(one.mean) not in sizes for one in told.values()):
                return False
            try:
                for one in told.values():
                    one.moments()
            except ValueError:
                return False
        return True
