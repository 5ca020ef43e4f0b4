"""The statistics that a hospital sends for the confounding probe.

A hospital reports groups of its held-out patients only, no group below its minimum group size, and
each group once a run. The orchestrator accepts only plausible statistics: known labels, the
dimensions that the job declares, moments that a group can have.
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
    """`Moments` in their wire form."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    count: Count
    mean: Vector
    scatter: Annotated[list[Vector], Field(min_length=1, max_length=64)]

    @classmethod
    def of(cls, moments: Moments) -> "GroupMoments":
        """Converts moments to send them."""
        return cls(
            count=moments.count, mean=moments.mean.tolist(), scatter=moments.scatter.tolist()
        )

    def moments(self) -> Moments:
        """Converts received moments.

        Raises:
            ValueError: no group can have these moments.
        """
        return Moments(self.count, np.array(self.mean, float), np.array(self.scatter, float))


ByLabel = Mapping[str, GroupMoments]


class ProbeStatistics(BaseModel):
    """The statistics of one hospital, without labels below its minimum group size.

    Attributes:
        shares: training patients by label, scaled to the hospital's weight in the mean.
        scores: moments of the model's log-odds of each label, by true label.
        features: moments of the model's features, projected onto a few directions.
        acquisition: moments of the acquisition features, projected onto as many.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    shares: dict[str, Count] = {}
    scores: dict[str, GroupMoments] = {}
    features: dict[str, GroupMoments] = {}
    acquisition: dict[str, GroupMoments] = {}

    def fits(self, labels: Sequence[str], dimensions: int) -> bool:
        """Whether these statistics can answer a job's request.

        Args:
            labels: the job's labels.
            dimensions: largest dimension of features and acquisition.
        """
        if not self.shares.keys() <= set(labels):
            return False
        for kind in _KINDS:
            sizes = [len(labels)] if kind == "scores" else range(1, dimensions + 1)
            groups: ByLabel = getattr(self, kind)
            if not groups.keys() <= set(labels):
                return False
            if any(len(group.mean) not in sizes for group in groups.values()):
                return False
            try:
                for group in groups.values():
                    group.moments()
            except ValueError:
                return False
        return True
