"""`consortium predict` and `evaluate` where the patients are rows of a table."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consortium.cli.scores import ALL, all_scores, estimate, plain, table_console
from consortium.core.errors import Refused, UsageError

if TYPE_CHECKING:
    from torch.nn import Module

    from consortium.protocol.metrics import Classification
    from consortium.tasks.tabular.settings import TabularSettings


def predict_table(model: Path, table_file: Path, output: Path) -> None:
    """Writes a row for each patient: the probability and the class.

    Raises:
        Refused: the model is of another task or takes columns that the table lacks.
        UsageError: the table or the output cannot be used.
    """
    import torch

    from consortium.models.bundle import load_model, require_match
    from consortium.tasks.tables import PATIENT, write_table
    from consortium.tasks.tabular.dataset import check_values, encode, read_patients
    from consortium.tasks.tabular.scores import CUT
    from consortium.tasks.tabular.settings import TabularSettings
    from consortium.tasks.tabular.task import predict

    require_csv(output, [table_file])
    settings, network = load_model(model, torch.device("cpu"), TabularSettings)
    table = read_patients(table_file)
    require_match(settings, table)
    for finding in check_values(table, settings.data, outcome=False):
        if finding.severity == "error":
            raise UsageError(finding.code, finding.detail, str(table_file), "correct the table")
    patients = encode(table, settings.data, outcome=False)
    found = predict(network, patients, torch.device("cpu"))
    classes = list(settings.data.outcome.classes)
    rows = [
        (name, f"{probability:.6g}", classes[probability > CUT])
        for name, probability in zip(patients.names, found.tolist(), strict=True)
    ]
    write_table(output, [PATIENT, f"probability of {classes[-1]}", "predicted"], rows)
    left_out = len(table.rows) - len(patients)
    told = f"; {left_out} more lack a value" if left_out else ""
    print(f"wrote {output}: {len(patients)} patients{told}")


def require_csv(output: Path, inputs: Sequence[Path]) -> None:
    """Refuses a place where predictions cannot be written, before there are any.

    Args:
        output: the place.
        inputs: files that are read.

    Raises:
        UsageError: `bad-output` or `missing-folder`.
        Refused: `same-file`.
    """
    from consortium.tasks.classification.dataset import LABELS
    from consortium.tasks.tabular.dataset import TABLE

    if output.suffix.lower() != ".csv":
        raise UsageError("bad-output", "predictions are a table", str(output), "name it .csv")
    if not output.parent.is_dir():
        raise UsageError("missing-folder", "no such folder", str(output.parent), "make it first")
    if output.resolve() in [path.resolve() for path in inputs]:
        raise Refused("same-file", "it would replace what is read", str(output), "name another")
    if output.name in (LABELS, TABLE) and output.exists():
        raise Refused("same-file", "a hospital's table has that name", str(output), "name another")


def evaluate_table(
    settings: "TabularSettings",
    network: "Module",
    folders: Mapping[str, Path],
    write: Callable[[dict[str, Any]], None],
) -> None:
    """Scores a model on all patients of each hospital, and prints a table.

    Args:
        settings: of the model.
        network: the model.
        folders: of the hospitals.
        write: takes all scores as JSON values.

    Raises:
        UsageError: a hospital's table has errors; the first one is named.
    """
    import numpy as np
    import torch

    from consortium.tasks.tabular.dataset import check_table, encode, read_patients
    from consortium.tasks.tabular.scores import classify
    from consortium.tasks.tabular.task import predict

    cases: list[dict[str, Any]] = []
    scores: dict[str, Classification] = {}
    classes = list(settings.data.outcome.classes)
    found, truth = [], []
    for name, folder in folders.items():
        for finding in check_table(folder, settings):
            # Of a hospital that only evaluates nobody needs to train or validate.
            split = finding.code in ("one-class", "empty-validation", "nothing-to-train")
            if finding.severity == "error" and not split:
                raise UsageError(finding.code, finding.detail, name, "see consortium check-data")
        patients = encode(read_patients(folder), settings.data)
        if not len(patients):
            raise UsageError("empty-hospital", "no patient is complete", name, "complete them")
        found.append(predict(network, patients, torch.device("cpu")))
        truth.append(patients.outcomes)
        scores[name] = classify(found[-1], truth[-1], classes, 1)[1]
        cases += [
            {"patient": patient, "hospital": name, "probability": p, "class": classes[outcome]}
            for patient, p, outcome in zip(
                patients.names, found[-1].tolist(), truth[-1].tolist(), strict=True
            )
        ]
    total = classify(np.concatenate(found), np.concatenate(truth), classes, 1)[1]
    write(all_scores(cases, scores, total))
    if len(scores) > 1:
        scores[ALL] = total
    _print(scores, classes)


def _print(scores: "Mapping[str, Classification]", classes: list[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    from consortium.protocol.metrics import FIGURES

    table = Table()
    table.add_column("hospital", overflow="fold")
    for title in ("patients", *classes, *(f"{figure} [95 %]" for figure in FIGURES)):
        table.add_column(title, justify="right")
    for name, score in scores.items():
        if name == ALL and len(scores) > 1:
            table.add_section()
        support = score.support or {}
        counts = [str(support.get(one, 0)) for one in classes]
        figures = [estimate(score, figure) for figure in FIGURES]
        table.add_row(Text(plain(name)), str(score.patients), *counts, *figures)
    table_console().print(table)
