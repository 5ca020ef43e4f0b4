"""`consortium evaluate` on X-rays."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consortium.core.errors import UsageError
from consortium.protocol.metrics import FEW, Score
from consortium.tasks.base import CheckProgress, TrainedModel
from consortium.tasks.classification.dataset import Radiograph, read_radiographs
from consortium.tasks.classification.predict import read_and_classify
from consortium.tasks.classification.scores import classify_radiographs
from consortium.tasks.classification.settings import (
    CLASS_FIGURES,
    SENSITIVITY,
    ClassificationSettings,
)
from consortium.tasks.evaluation import (
    Evaluation,
    ScoreTable,
    all_scores,
    estimate,
    with_all,
)


def evaluate_radiographs(
    model: TrainedModel, folders: Mapping[str, Path], progress: CheckProgress
) -> Evaluation:
    """Scores a model on each hospital's X-rays, all that the job takes.

    Raises:
        UsageError: a hospital's folder or an X-ray cannot be used.
        Refused: `labels.csv` does not match the model's classes.
    """
    settings = model.settings
    classes = list(settings.data.classes)
    cases: list[dict[str, Any]] = []
    scores: dict[str, Score] = {}
    probabilities: list[NDArray[Any]] = []
    all_radiographs: list[Radiograph] = []
    all_patients: list[str] = []
    for name, folder in folders.items():
        radiographs = read_radiographs(folder, settings.data).radiographs
        if not radiographs:
            raise UsageError(
                "empty-hospital", "no X-ray that the model takes", name, "list X-rays that it takes"
            )
        probabilities.append(read_and_classify(model, radiographs, progress))
        patients = [radiograph.patient for radiograph in radiographs]
        scores[name] = _score(settings, probabilities[-1], radiographs, patients)
        all_radiographs += radiographs
        all_patients += [f"{name}/{patient}" for patient in patients]
        cases += [
            {
                "patient": radiograph.patient,
                "hospital": name,
                "file": radiograph.file,
                "probabilities": dict(zip(classes, values.tolist(), strict=True)),
                "class": classes[radiograph.label],
            }
            for radiograph, values in zip(radiographs, probabilities[-1], strict=True)
        ]
    total = _score(settings, np.concatenate(probabilities), all_radiographs, all_patients)
    return Evaluation(all_scores(cases, scores, total), _table(with_all(scores, total), settings))


def _score(
    settings: ClassificationSettings,
    probabilities: NDArray[Any],
    radiographs: Sequence[Radiograph],
    patients: Sequence[str],
) -> Score:
    return classify_radiographs(
        probabilities,
        np.array([radiograph.label for radiograph in radiographs]),
        patients,
        list(settings.data.classes),
        1,
        specificity=settings.data.specificity,
    )[1]


def _table(scores: Mapping[str, Score], settings: ClassificationSettings) -> ScoreTable:
    metrics = settings.scored.metrics
    at = f" at specificity {settings.data.specificity:g}"
    titles = [f"{figure}{at if figure == SENSITIVITY else ''} [95 %]" for figure in CLASS_FIGURES]
    sections = [
        [
            (
                name,
                label,
                str((score.support or {}).get(label, 0)),
                *(estimate(score, metric) for metric in metrics if metric.of == label),
            )
            for label in settings.data.classes
        ]
        for name, score in scores.items()
    ]
    notes = [
        f"{metric.name}, {name}: {estimate(score, metric)}"
        for name, score in scores.items()
        for metric in metrics
        if not metric.of
    ]
    few = (
        f"descriptive: the figure rests on fewer than {FEW} patients of the class, or of all"
        " others, and says little about other patients"
    )
    return ScoreTable(("hospital", "class"), ("patients", *titles), tuple(sections), (*notes, few))
