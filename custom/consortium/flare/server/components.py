"""What the configuration of a job may build at the orchestrator; nothing else stands here."""

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
