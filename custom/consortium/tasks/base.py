"""The interfaces of a task: `LocalTask` at a hospital, `Task` for everything else.

`LocalTrainer` (see `consortium.client.trainer`) runs the rounds of every task through its
`LocalTask`. A new task is one folder next to the others and one line in
`consortium.tasks.registry`; rounds, aggregation, checkpoints and kits do not depend on tasks.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consortium.confounding.probe_statistics import ProbeStatistics
from consortium.core.findings import Finding
from consortium.core.site_policy import Columns, Site
from consortium.protocol.schema import State
from consortium.tasks.columns import Proposal
from consortium.tasks.evaluation import Evaluation
from consortium.tasks.measurement import Measured

CheckProgress = Callable[[int, int], None]


class LocalTask(ABC):
    """One hospital's data, loss and evaluation for one task.

    Construction fails if the data do not pass the checks.

    Attributes:
        cases: number of training cases; the hospital's weight.
        patients: number of patients with training cases.
        moving_statistics: whether the network's statistics are running statistics of the batches.
        format: memory format of the inputs.
    """

    cases: int
    patients: int
    moving_statistics = True
    format = torch.contiguous_format

    @property
    @abstractmethod
    def samples(self) -> int:
        """Number of samples in one pass over the training cases."""

    @abstractmethod
    def batches(self, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields inputs and targets without end; they depend on the seed and the cases alone.

        Args:
            size: samples in a batch.
            seed: of at most 256 bits.
        """

    @abstractmethod
    def patients_of_batches(self, size: int, seed: int) -> Iterator[NDArray[np.int64]]:
        """Yields, for each batch of `batches` with the same arguments, the patient of each sample.

        Patients are numbered from 0. Nothing is computed but the order.
        """

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss that training minimises."""

    @abstractmethod
    def measure(
        self, network: torch.nn.Module, progress: CheckProgress, pulse: Callable[[], None]
    ) -> Measured:
        """Scores a network on the validation patients.

        Args:
            network: in any mode; left in evaluation mode.
            progress: called before each patient with the number of patients done and in total.
            pulse: called during a patient; it may raise to stop.

        Returns:
            The score, and the predictions that it rests on.
        """

    def statistics(self, model: State, round_number: int | None) -> dict[str, Tensor]:
        """Statistics of the training patients that are set in the network before training.

        Args:
            model: the model that the orchestrator sent.
            round_number: round of the federated training; None for local training.
        """
        return {}

    def probe_statistics(self, network: torch.nn.Module) -> ProbeStatistics | None:
        """The statistics that the confounding probe gets, or None if the task has no probe."""
        return None

    def own_statistics(self) -> dict[str, Tensor]:
        """Tensors that stay at the hospital; computed from its data, not stored."""
        return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """A trained model, loaded for use.

    Attributes:
        settings: settings of the job that trained it.
        network: the network, in evaluation mode.
        device: device of the network.
        identify: returns its name and version, to label its predictions.
    """

    settings: Any
    network: torch.nn.Module
    device: torch.device
    identify: Callable[[], tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The functions of one task that the rest of the package calls.

    Attributes:
        open: creates a hospital's `LocalTask` from its site, the settings, the device and a
            callback for progress.
        network: returns the MONAI bundle configuration of a job's network, with id `network_def`.
        initialise: sets initial weights that differ from torch's, in place.
        adapt_weights: adapts initial weights to a new network's; those that still do not fit are
            refused.
        require_folder: refuses a hospital's folder that does not match the job, before the run.
        require_match: refuses a model whose inputs or outputs differ from a job's.
        bound: returns the settings by which a hospital's folder is checked, with the hospital's
            ranges and values in place of the job's; refuses columns that the hospital does not
            list, and narrower ranges, as `data-unfit`. See `consortium.tasks.columns`.
        propose: proposes the columns of a folder that jobs may read, or those of the given
            settings; empty if the task reads no table.
        check: checks a hospital's folder, given the settings of a job or None, and a callback for
            the number of cases done and in total.
        count: counts the cases and the patients that a hospital's folder lists.
        accepts: whether a path may be an input of the task's models, by its name.
        predict: writes a model's predictions to a file. It takes the model, the inputs, the file,
            a callback for progress and one for lines of output.
        evaluate: scores a model on every labelled case of the hospitals' folders, by name.
        pool: writes a folder with the cases of all hospitals, for the centralised model.
        metadata: the task's part of a model's MONAI metadata.
        inference: a MONAI bundle configuration that needs MONAI alone.
    """

    open: Callable[[Site, Any, torch.device, CheckProgress], LocalTask]
    network: Callable[[Any], dict[str, Any]]
    initialise: Callable[[torch.nn.Module], None]
    adapt_weights: Callable[[State, State], State]
    require_folder: Callable[[str, Path, Any], None]
    require_match: Callable[[Any, Any, str], None]
    bound: Callable[[Any, Columns], Any]
    propose: Callable[[Path, Any], Proposal]
    check: Callable[[Path, Any, CheckProgress | None], list[Finding]]
    count: Callable[[Path], tuple[int, int]]
    accepts: Callable[[Path], bool]
    predict: Callable[
        [TrainedModel, Sequence[Path], Path, CheckProgress, Callable[[str], None]], None
    ]
    evaluate: Callable[[TrainedModel, Mapping[str, Path], CheckProgress], Evaluation]
    pool: Callable[[Mapping[str, Path], Path, Any], None]
    metadata: Callable[[Any], dict[str, Any]]
    inference: Callable[[Any], dict[str, Any]]
