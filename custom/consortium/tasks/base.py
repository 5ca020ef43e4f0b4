"""What a task is at a hospital, and what else of the package depends on the task.

`LocalTrainer` (see `consortium.client.trainer`) leads the rounds of every task; a `LocalTask` is
what it asks of one. A further task is one folder beside those that are there and one line in
`consortium.tasks.registry`; rounds, aggregation, checkpoints and kits know none of it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from consortium.confounding.probe_statistics import ProbeStatistics
from consortium.core.findings import Finding
from consortium.core.site_policy import Site
from consortium.protocol.metrics import Score
from consortium.protocol.schema import State
from consortium.tasks.evaluation import Evaluation

CheckProgress = Callable[[int, int], None]


class LocalTask(ABC):
    """A hospital's patients as a task sees them; it has checked that they are fit for the job.

    Attributes:
        cases: for training; the hospital's weight.
        patients: that they are of.
        moving_statistics: whether the network's statistics are those of the batches.
        format: of the inputs in memory.
    """

    cases: int
    patients: int
    moving_statistics = True
    format = torch.contiguous_format

    @property
    @abstractmethod
    def samples(self) -> int:
        """How many samples one pass over the training cases has."""

    @abstractmethod
    def batches(self, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """An endless stream of inputs and targets; a function of the seed and of the cases."""

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """What is made small."""

    @abstractmethod
    def measure(
        self, network: torch.nn.Module, progress: CheckProgress, pulse: Callable[[], None]
    ) -> tuple[float, Score | None]:
        """Scores a network on the validation patients.

        Args:
            network: any mode; left in evaluation mode.
            progress: called before each patient with the number of those done and of all.
            pulse: called within one; it may raise to stop.

        Returns:
            The score by which a model is chosen, for the hospital's own use (0 without patients),
            and what of it may leave.
        """

    def statistics(self, model: State, round_number: int | None) -> dict[str, Tensor]:
        """Statistics of the training patients that stand in the network before it is trained.

        Args:
            model: that is handed out.
            round_number: of the shared training, or None where the hospital trains alone.
        """
        return {}

    def probe_statistics(self, network: torch.nn.Module) -> ProbeStatistics | None:
        """What the confounding probe is told of a network, where the task has such a question."""
        return None

    def own_statistics(self) -> dict[str, Tensor]:
        """What stays at the hospital and is known before any round: it is not kept, but found."""
        return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """A model that was opened for use.

    Attributes:
        settings: that it was trained with.
        network: in evaluation mode.
        device: where the network is.
        identify: its name and its version, for what is made with it.
    """

    settings: Any
    network: torch.nn.Module
    device: torch.device
    identify: Callable[[], tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What of the package depends on the task.

    Attributes:
        open: the work of a hospital: of its site, the settings, the device and the progress.
        network: the MONAI bundle configuration of a job's network; its id `network_def` is it.
        initialise: sets initial weights that are not torch's, in place.
        take: fits weights that a job starts from to a fresh network's; what does not fit after it
            is refused.
        require_folder: refuses a hospital's folder that is another job's, before a run is started.
        require_match: refuses a model of other inputs or outputs than a job's.
        check: what is wrong with a hospital's folder, given the settings of a job or None and what
            is called with the number of cases done and of all.
        count: the cases and the patients that a hospital's folder lists.
        takes: whether a file or folder may be what a model of the task is given, by its name.
        predict: writes what a model says of inputs to a file. It takes the model, the inputs, the
            file, what is called with the progress, and what takes lines for people.
        evaluate: scores a model on every labelled case of the hospitals' folders, by name.
        pool: writes a folder that holds the cases of all hospitals, for the pooled reference.
        metadata: what MONAI's metadata of a model say of the task.
        inference: a MONAI bundle configuration that needs nothing but MONAI.
    """

    open: Callable[[Site, Any, torch.device, CheckProgress], LocalTask]
    network: Callable[[Any], dict[str, Any]]
    initialise: Callable[[torch.nn.Module], None]
    take: Callable[[State, State], State]
    require_folder: Callable[[str, Path, Any], None]
    require_match: Callable[[Any, Any, str], None]
    check: Callable[[Path, Any, CheckProgress | None], list[Finding]]
    count: Callable[[Path], tuple[int, int]]
    takes: Callable[[Path], bool]
    predict: Callable[
        [TrainedModel, Sequence[Path], Path, CheckProgress, Callable[[str], None]], None
    ]
    evaluate: Callable[[TrainedModel, Mapping[str, Path], CheckProgress], Evaluation]
    pool: Callable[[Mapping[str, Path], Path, Any], None]
    metadata: Callable[[Any], dict[str, Any]]
    inference: Callable[[Any], dict[str, Any]]
