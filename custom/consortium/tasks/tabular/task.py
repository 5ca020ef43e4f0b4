"""The tabular task: predicts an outcome of two classes from a table by logistic regression.

The network itself standardises the inputs, by a batch normalisation with the statistics of patients
and never of batches, so the model takes a table as it is. With `averaged` statistics they are sent
like every buffer, as `local - base` weighted by the training cases. In the first round the mean of
the hospitals' means is the mean of all patients (sums over counts). In the second round the mean of
the hospitals' mean squares about it is the variance. No record leaves a hospital. A hospital with
fewer training patients than its smallest group takes no part. The sum of a category would be a
count of patients, which may be small, so categories are not standardised. With `local` statistics
nothing of them leaves, and all inputs are standardised.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consortium.core.errors import Refused
from consortium.core.files import whole_folder
from consortium.core.plurals import plural
from consortium.core.site_policy import Site
from consortium.protocol.metrics import Score
from consortium.protocol.schema import State
from consortium.tasks.base import CheckProgress, LocalTask, Task
from consortium.tasks.measurement import Measured, ScoredGroup
from consortium.tasks.split import SiteSplit
from consortium.tasks.statements import Statements, settle_validation
from consortium.tasks.tables import PATIENT, SIDES, SPLIT, PatientTable, write_table
from consortium.tasks.tabular.columns import bound_columns, propose_table
from consortium.tasks.tabular.dataset import (
    TABLE,
    Patients,
    check_table,
    read_patients,
    require_columns,
    restrict,
    split_table,
)
from consortium.tasks.tabular.evaluate import evaluate_tables
from consortium.tasks.tabular.predict import predict, predict_table
from consortium.tasks.tabular.scores import THRESHOLD, classify
from consortium.tasks.tabular.settings import ACCURACY, AUROC, TabularSettings

_MEAN, _VARIANCE = "0.running_mean", "0.running_var"


class TabularTask(LocalTask):
    """One hospital's table; see `LocalTask`.

    Args:
        site: the hospital's own choices.
        settings: the job's settings.
        device: where to train.
        progress: not called; a table is read at once.

    Raises:
        Refused: `too-few-to-average` if a statistic that leaves would rest on fewer patients than
            the hospital's smallest group; `statement-too-close` if it would rest on almost the
            patients of an earlier one; `other-split`.
    """

    moving_statistics = False

    def __init__(
        self,
        site: Site,
        settings: TabularSettings,
        device: torch.device,
        progress: CheckProgress,
    ):
        self._site, self._settings, self._device = site, settings, device
        table = read_patients(site.data)
        training, validation = split_table(table, settings.data, SiteSplit(site, settings.task))
        self._own = settings.update.buffers == "local"
        if not self._own and len(training) >= site.smallest_group:
            training = restrict(training, self._settle(table, training))
        self._training = training
        self._validation, self._withheld = self._settle_validation(validation)
        self.cases = self.patients = len(self._training)
        if not self._own and self.patients < site.smallest_group:
            raise Refused(
                "too-few-to-average",
                f"{plural(self.patients, 'training patient')}; statistics of fewer than"
                f" {site.smallest_group} do not leave the hospital",
                str(site.data),
                'add patients, or take part in a job with update.buffers "local"',
            )
        self._inputs = torch.from_numpy(self._training.inputs)
        self._targets = torch.from_numpy(self._training.outcomes.astype(np.float32))[:, None]

    @property
    def samples(self) -> int:
        """The number of training patients."""
        return self.cases

    def batches(self, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields passes in random order; the last batch of a pass may be smaller."""
        for order in self.patients_of_batches(size, seed):
            chosen = torch.from_numpy(order)
            yield self._inputs[chosen], self._targets[chosen]

    def patients_of_batches(self, size: int, seed: int) -> Iterator[NDArray[np.int64]]:
        """See `LocalTask`; a row is a patient."""
        generator = np.random.default_rng(seed)
        while True:
            order = generator.permutation(self.cases)
            yield from (order[start : start + size] for start in range(0, self.cases, size))

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy."""
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)

    def measure(
        self, network: torch.nn.Module, progress: CheckProgress, pulse: Callable[[], None]
    ) -> Measured:
        """Accuracy and AUROC on the validation patients."""
        patients = self._validation
        if not len(patients):
            return Measured(0.0, None)
        progress(0, len(patients))
        probabilities = predict(network, patients, self._device)
        classes = list(self._settings.data.outcome.classes)
        truth = patients.outcomes
        value, score = classify(probabilities, truth, classes, self._site.smallest_group)
        hits = (probabilities > THRESHOLD) == (truth == 1)
        groups = (
            ScoredGroup(subject="hits", figures=(ACCURACY,), values=hits),
            ScoredGroup(
                subject="order", figures=(AUROC,), values=probabilities, positive=truth == 1
            ),
        )
        return Measured(value, self._withheld or score, patients.names, groups)

    def _settle(self, table: PatientTable, training: Patients) -> frozenset[str]:
        """Selects the training patients behind the statistics that leave."""
        rows = {row[PATIENT]: row for row in table.rows}
        values = {
            column: {patient: repr(float(rows[patient][column])) for patient in training.names}
            for column in self._settings.data.numbers
        }
        return Statements(self._site, self._settings.task).settle("training", values)

    def _settle_validation(self, validation: Patients) -> tuple[Patients, Score | None]:
        """Selects the patients behind the scores; also returns a score that is withheld."""
        names = np.array(validation.names, object)
        classes = [names[validation.outcomes == number].tolist() for number in (0, 1)]
        settled, withheld = settle_validation(
            self._site, self._settings.task, validation.names, classes
        )
        return restrict(validation, settled), withheld

    def statistics(self, model: State, round_number: int | None) -> dict[str, Tensor]:
        """See the module; a model that is trained alone takes the hospital's own in every round."""
        if self._own or (round_number is not None and round_number > 1):
            return {}
        about = model[_MEAN].cpu() if round_number == 1 else None
        return self._moments(about, numbers=len(self._settings.data.numbers))

    def own_statistics(self) -> dict[str, Tensor]:
        """The statistics of all inputs, if they stay at the hospital."""
        return self._moments(None, numbers=None) if self._own else {}

    def _moments(self, about: Tensor | None, numbers: int | None) -> dict[str, Tensor]:
        """Mean and variance; 0 and 1 for an input that is not standardised."""
        inputs = self._inputs.double()[:, :numbers]
        mean, variance = torch.zeros(self._inputs.shape[1]), torch.ones(self._inputs.shape[1])
        centre = inputs.mean(0) if about is None else about.double()[:numbers]
        mean[:numbers] = centre.float()
        # A local variance is a sample variance; over many hospitals it is the mean of all squares.
        squares = (inputs - centre).square().sum(0)
        spread = squares / max(1, self.cases - (numbers is None))
        if numbers is None:
            spread[spread == 0] = 1.0  # the same in all patients: do not divide by 0
        variance[:numbers] = spread.float()
        return {_MEAN: mean, _VARIANCE: variance}


def network_config(settings: TabularSettings) -> dict[str, Any]:
    """A logistic regression as a MONAI bundle configuration."""
    inputs = len(settings.data.inputs)
    return {
        "standardise": {
            "_target_": "torch.nn.BatchNorm1d",
            "num_features": inputs,
            "affine": False,
            "eps": 1e-7,
        },
        "regression": {"_target_": "torch.nn.Linear", "in_features": inputs, "out_features": 1},
        "network_def": "$torch.nn.Sequential(@standardise, @regression)",
    }


def _require_folder(name: str, folder: Path, settings: TabularSettings) -> None:
    require_columns(read_patients(folder), settings.data, outcome=True)


def _require_match(model: TabularSettings, other: TabularSettings, source: str) -> None:
    """Refuses a model whose columns, categories or classes are not the job's.

    Raises:
        Refused: `wrong-columns`.
    """
    ours, theirs = (
        [
            list(settings.data.numbers),
            list(settings.data.categories.items()),
            list(settings.data.outcome.classes.items()),
        ]
        for settings in (model, other)
    )
    if ours != theirs:
        raise Refused(
            "wrong-columns",
            f"the model's inputs are {', '.join(model.data.inputs)}; the inputs or classes here"
            " differ",
            source,
            "use a model of these columns and classes",
        )


def _pool(folders: Mapping[str, Path], out: Path, settings: TabularSettings) -> None:
    """Pools the tables and keeps each patient's side of the split."""
    columns = settings.data.columns
    rows = []
    for name, folder in sorted(folders.items()):
        table = read_patients(folder)
        for patients, side in zip(split_table(table, settings.data), SIDES, strict=True):
            chosen = set(patients.names)
            rows += [
                [f"{name}/{row[PATIENT]}", *(row[column] for column in columns), side]
                for row in table.rows
                if row[PATIENT] in chosen
            ]
    with whole_folder(out) as partial_folder:
        write_table(partial_folder / TABLE, [PATIENT, *columns, SPLIT], rows)


def _metadata(settings: TabularSettings) -> dict[str, Any]:
    data = settings.data
    target = list(data.outcome.classes)[-1]
    inputs, outputs = list(data.inputs), [f"logit of {target}"]
    return {
        "packages": {},
        "description": f"Predicts {target} from {', '.join(data.columns[:-1])}.",
        "network_data_format": {
            part: {
                name: {
                    "type": "tabular",
                    "format": "vector",
                    "num_channels": len(channels),
                    "spatial_shape": [],
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": False,
                    "channel_def": {str(i): channel for i, channel in enumerate(channels)},
                }
            }
            for part, name, channels in (
                ("inputs", "patients", inputs),
                ("outputs", "pred", outputs),
            )
        },
    }


def _inference(settings: TabularSettings) -> dict[str, Any]:
    """Prints a probability for each row of a CSV file, with MONAI and torch alone."""
    data = settings.data
    numbers = ", ".join(
        f"(float(row[{name!r}]) - {low!r}) / {high - low!r}"
        for name, (low, high) in data.numbers.items()
    )
    categories = ", ".join(
        f"float(row[{name!r}].strip() == {value!r})"
        for name, known in data.categories.items()
        for value in known[1:]
    )
    values = ", ".join(part for part in (numbers, categories) if part)
    return {
        "imports": ["$import csv", "$from safetensors.torch import load_model"],
        "table": TABLE,
        "rows": "$list(csv.DictReader(open(@table, encoding='utf-8-sig')))",
        "inputs": f"$torch.tensor([[{values}] for row in @rows])",
        "probabilities": "$torch.sigmoid(@network(@inputs.to(@device)).detach())[:, 0].tolist()",
        "run": [
            # No name is a formula to a spreadsheet. MONAI would take an at sign for a reference.
            f"$[print(\"'\" * (row['{PATIENT}'][:1] in ('=', '+', '-', chr(64)))"
            f" + row['{PATIENT}'], round(p, 6), sep=',')"
            " for row, p in zip(@rows, @probabilities)]"
        ],
    }


def _count(folder: Path) -> tuple[int, int]:
    patients = [row.get(PATIENT, "") for row in read_patients(folder).rows]
    return len(patients), len(set(patients))


TASK = Task(
    open=TabularTask,
    network=network_config,
    initialise=lambda network: None,
    adapt_weights=lambda state, fresh: state,
    require_folder=_require_folder,
    require_match=_require_match,
    bound=bound_columns,
    propose=propose_table,
    check=check_table,
    count=_count,
    accepts=lambda path: path.suffix.lower() == ".csv",
    predict=predict_table,
    evaluate=evaluate_tables,
    pool=_pool,
    metadata=_metadata,
    inference=_inference,
)
