"""The classes that a job's configuration may build at the orchestrator, and nothing else."""

from consortium.flare.server.assessment import Assessment
from consortium.flare.server.rounds import StudyRounds
from consortium.flare.server.study import (
    ModelPersistor,
    ModelShareableGenerator,
    StudyRun,
    UpdateAggregator,
)

__all__ = [
    "Assessment",
    "ModelPersistor",
    "ModelShareableGenerator",
    "StudyRounds",
    "StudyRun",
    "UpdateAggregator",
]
