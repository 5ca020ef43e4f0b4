"""`consortium predict` on a table of patients."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from consortium.core.errors import UsageError
from consortium.core.plurals import plural
from consortium.tasks.base import CheckProgress, TrainedModel
from consortium.tasks.tables import PATIENT, require_csv, write_table
from consortium.tasks.tabular.dataset import (
    Patients,
    check_values,
    encode,
    read_patients,
    require_columns,
)
from consortium.tasks.tabular.scores import THRESHOLD


def predict(network: torch.nn.Module, patients: Patients, device: torch.device) -> Any:
    """The probability of the second class, float64 (patients,)."""
    network.eval()
    with torch.no_grad():
        logits = network(torch.from_numpy(patients.inputs).to(device))
    return torch.sigmoid(logits.double()).cpu().numpy()[:, 0]


def predict_table(
    model: TrainedModel,
    inputs: Sequence[Path],
    output: Path,
    progress: CheckProgress,
    say: Callable[[str], None],
) -> None:
    """Writes one row for each patient: the probability and the class.

    Raises:
        Refused: the table lacks columns that the model needs.
        UsageError: the table or the output cannot be used.
    """
    if len(inputs) > 1:
        raise UsageError("usage", "one table at a time", str(inputs[1]), "leave it out")
    file, data = inputs[0], model.settings.data
    require_csv(output, [file])
    table = read_patients(file)
    require_columns(table, data, outcome=False)
    for finding in check_values(table, data, outcome=False):
        if finding.severity == "error":
            raise UsageError(finding.code, finding.detail, str(file), "correct the table")
    patients = encode(table, data, outcome=False)
    probabilities = predict(model.network, patients, model.device)
    classes = list(data.outcome.classes)
    rows = [
        (name, f"{probability:.6g}", classes[probability > THRESHOLD])
        for name, probability in zip(patients.names, probabilities.tolist(), strict=True)
    ]
    write_table(output, [PATIENT, f"probability of {classes[-1]}", "predicted"], rows)
    left_out = len(table.rows) - len(patients)
    incomplete = (
        f"; {left_out} more {'lacks' if left_out == 1 else 'lack'} a value" if left_out else ""
    )
    say(f"wrote {output}: {plural(len(patients), 'patient')}{incomplete}")
