"""`consortium evaluate` on tables of patients."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from consortium.core.errors import UsageError
from consortium.protocol.metrics import Score
from consortium.tasks.base import CheckProgress, TrainedModel
from consortium.tasks.evaluation import (
    Evaluation,
    ScoreTable,
    all_scores,
    estimate,
    with_all,
)
from consortium.tasks.tabular.dataset import check_table, encode, read_patients
from consortium.tasks.tabular.predict import predict
from consortium.tasks.tabular.scores import classify
from consortium.tasks.tabular.settings import TabularSettings

_TRAINING_ONLY = ("one-class", "empty-validation", "nothing-to-train")
"""Errors that do not matter at a hospital that only evaluates."""


def evaluate_tables(
    model: TrainedModel, folders: Mapping[str, Path], progress: CheckProgress
) -> Evaluation:
    """Scores a model on all patients of each hospital.

    Raises:
        UsageError: a hospital's table has errors; the message gives the first.
    """
    cases: list[dict[str, Any]] = []
    scores: dict[str, Score] = {}
    classes = list(model.settings.data.outcome.classes)
    probabilities, truth = [], []
    for name, folder in folders.items():
        for finding in check_table(folder, model.settings):
            if finding.severity == "error" and finding.code not in _TRAINING_ONLY:
                raise UsageError(finding.code, finding.detail, name, "see consortium check-data")
        patients = encode(read_patients(folder), model.settings.data)
        if not len(patients):
            raise UsageError("empty-hospital", "no patient has all values", name, "complete them")
        probabilities.append(predict(model.network, patients, model.device))
        truth.append(patients.outcomes)
        scores[name] = classify(probabilities[-1], truth[-1], classes, 1)[1]
        cases += [
            {"patient": patient, "hospital": name, "probability": p, "class": classes[outcome]}
            for patient, p, outcome in zip(
                patients.names, probabilities[-1].tolist(), truth[-1].tolist(), strict=True
            )
        ]
    total = classify(np.concatenate(probabilities), np.concatenate(truth), classes, 1)[1]
    return Evaluation(
        all_scores(cases, scores, total), _table(with_all(scores, total), model.settings)
    )


def _table(scores: Mapping[str, Score], settings: TabularSettings) -> ScoreTable:
    metrics, classes = settings.scored.metrics, list(settings.data.outcome.classes)
    rows = [
        (
            name,
            str(score.patients),
            *(str((score.support or {}).get(label, 0)) for label in classes),
            *(estimate(score, metric) for metric in metrics),
        )
        for name, score in scores.items()
    ]
    titles = ("patients", *classes, *(f"{metric.name} [95 %]" for metric in metrics))
    split = len(rows) - 1 if len(rows) > 1 else len(rows)
    return ScoreTable(("hospital",), titles, (rows[:split], rows[split:]))
