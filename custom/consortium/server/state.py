"""A run's state: the job's declaration and everything that must survive a kill.

`RunState` is what `consortium.server.checkpoint` saves and loads. Rounds, evaluations and results
read it, and each changes only its own part. Nothing here opens a file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from consortium.orchestration.model_selection import ModelSelection, first_averaged
from consortium.orchestration.quorum import Quorum
from consortium.orchestration.run import RunRecord
from consortium.protocol.schema import ModelSchema
from consortium.settings.base import Settings

AVERAGE, OPTIMISER = "average", "velocity"
"""Keys of `RunState.more`: the sums of the model average, and the server optimiser's moments."""


@dataclass(frozen=True, slots=True)
class Study:
    """A job's declaration.

    Attributes:
        run: id of the run.
        job: name of the job.
        quorum: who takes part, and how many of them a round needs.
        settings: the job's.
        left_out: hospitals without which the run goes on, because they broke it too often.
    """

    run: str
    job: str
    quorum: Quorum
    settings: Settings
    left_out: tuple[str, ...] = ()

    @property
    def hospitals(self) -> tuple[str, ...]:
        """Hospitals that take part, sorted."""
        return self.quorum.hospitals

    def dump_settings(self) -> dict[str, Any]:
        """The settings as JSON types."""
        return self.settings.model_dump(by_alias=True, mode="json")


@dataclass(slots=True, kw_only=True)
class RunState:
    """The state of a run between two rounds.

    Attributes:
        study: the job's declaration.
        schema: of the model.
        trainable: names of the tensors that are trained.
        model: the model that the next round starts from.
        model_sha256: its digest.
        run: records, answers and reasons so far.
        selection: which model is kept.
        start_file: file of the model that the first round started from.
        best_file: file of the best model; "" before the first round.
        more: names of the other files that the next round needs, by `AVERAGE` and `OPTIMISER`. They
            have several times the model's size and are in memory only while a round closes.
        averaged: number of models in the sums of the average.
    """

    study: Study
    schema: ModelSchema
    trainable: tuple[str, ...]
    model: Mapping[str, Tensor]
    model_sha256: str
    run: RunRecord
    selection: ModelSelection
    start_file: str
    best_file: str = ""
    more: dict[str, str] = field(default_factory=dict)
    averaged: int = 0

    @property
    def settings(self) -> Settings:
        """The job's settings."""
        return self.study.settings

    @property
    def rounds_done(self) -> int:
        """Number of closed rounds; also the number of the model that the next round starts from."""
        return len(self.run.records)

    @property
    def is_done(self) -> bool:
        """Whether no round is left: all are closed, or the selection stopped the run early."""
        return self.run.stopped_early or self.rounds_done >= self.settings.rounds

    @property
    def first_averaged(self) -> int:
        """Models with a higher number than this are averaged."""
        return first_averaged(self.run.rounds, self.settings.selection.share)

    @property
    def kept(self) -> int:
        """The number of rounds behind the model that goes to the results."""
        if self.settings.selection.keep == "best":
            return self.selection.best_model
        return self.rounds_done


def model_file(number: int) -> str:
    """Returns the file name of the model with so many rounds behind it."""
    return f"model-{number:06d}.safetensors"
