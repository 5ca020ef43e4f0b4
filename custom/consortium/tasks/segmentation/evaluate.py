"""Implements `consortium evaluate` for scans.

All labelled patients are scored on the grid of the original file, including those that the model
was trained on. A model whose channels or labels differ from the data is refused before any scan is
read.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from consortium.tasks.base import CheckProgress, TrainedModel
from consortium.tasks.evaluation import ALL, Evaluation, ScoreTable
from consortium.tasks.scores import ScoreSummary, summarise
from consortium.tasks.segmentation.datalist import read_datalist
from consortium.tasks.segmentation.inference import load_case, predict_case
from consortium.tasks.segmentation.match import require_data
from consortium.tasks.segmentation.scores import score_case

METRICS = ("dice", "hd95")

Summaries = Mapping[str, Mapping[str, ScoreSummary]]
"""Summaries by metric and structure."""


def evaluate_scans(
    model: TrainedModel, folders: Mapping[str, Path], progress: CheckProgress
) -> Evaluation:
    """Scores a model by Dice, HD95 in mm and volumes in mL.

    Raises:
        Refused: a hospital's data have other channels or labels than the model.
        UsageError: a hospital's list or a scan cannot be read.
    """
    hospitals = {name: read_datalist(folder) for name, folder in folders.items()}
    for datalist in hospitals.values():
        require_data(model.settings, datalist)
    names = list(model.settings.data.labels)
    cases: list[dict[str, Any]] = []
    total = sum(len(datalist.cases) for datalist in hospitals.values())
    for hospital, datalist in hospitals.items():
        for entry in datalist.cases:
            case = load_case(model.settings, entry.image, entry.label, entry.values)
            assert case.label_original is not None
            scores = score_case(
                predict_case(model.network, case, model.settings, model.device),
                case.label_original,
                case.spacing_original,
                names,
                distances=True,
            )
            cases.append({"patient": entry.patient, "hospital": hospital, **scores})
            progress(len(cases), total)
    groups = {
        hospital: [case for case in cases if case["hospital"] == hospital] for hospital in hospitals
    }
    result = {
        "cases": cases,
        **_as_json(_summaries(cases, names)),
        "hospitals": {
            hospital: _as_json(_summaries(group, names)) for hospital, group in groups.items()
        },
    }
    return Evaluation(result, _table(groups, cases, names))


def _summaries(cases: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Summaries:
    return {
        metric: {name: summarise(case[metric][name] for case in cases) for name in names}
        for metric in METRICS
    }


def _as_json(summaries: Summaries) -> dict[str, Any]:
    return {
        statistic: {
            metric: {name: getattr(summary, statistic) for name, summary in of_metric.items()}
            for metric, of_metric in summaries.items()
        }
        for statistic in ("mean", "median", "interval")
    }


def _table(
    groups: Mapping[str, Sequence[Mapping[str, Any]]],
    cases: Sequence[Mapping[str, Any]],
    names: Sequence[str],
) -> ScoreTable:
    rows = [row for name, group in groups.items() for row in _rows(name, group, names)]
    total = _rows(ALL, cases, names) if len(groups) > 1 else []
    return ScoreTable(
        ("hospital", "structure"),
        (
            "patients",
            "Dice mean [95 %]",
            "median",
            "HD95 mean [95 %], mm",
            "median",
            "without",
        ),
        (rows, total),
        ("without: patients without a distance, because one of the two masks is empty",),
    )


def _rows(
    group: str, cases: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> list[tuple[str, ...]]:
    metrics = _summaries(cases, names)
    rows: list[tuple[str, ...]] = []
    for name in names:
        dice, distance = metrics["dice"][name], metrics["hd95"][name]
        without = str(dice.cases - distance.cases)
        cells = (*_columns(dice, 3), *_columns(distance, 1), without)
        rows.append((group, name, str(dice.cases), *cells))
    return rows


def _columns(summary: ScoreSummary, digits: int) -> tuple[str, str]:
    if summary.mean is None or summary.median is None:
        return "-", "-"
    mean = f"{summary.mean:.{digits}f}"
    if summary.interval is not None:
        low, high = summary.interval
        mean += f" [{low:.{digits}f}, {high:.{digits}f}]"
    return mean, f"{summary.median:.{digits}f}"
