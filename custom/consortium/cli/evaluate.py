"""`consortium evaluate`: how good a model is on the labelled patients of one or more hospitals.

Every labelled patient is scored, those that the model was trained on included, on the grid of the
original file. A model of other channels or labels than the data is refused before any is read.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from consortium.cli.scores import ALL, plain, progress_bar, table_console
from consortium.cli.table import evaluate_table
from consortium.cli.xrays import evaluate_radiographs

if TYPE_CHECKING:
    from consortium.tasks.scores import Summary
    from consortium.tasks.segmentation.datalist import Datalist

METRICS = ("dice", "hd95")


def evaluate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The folder of a model.")],
    data: Annotated[
        Path,
        typer.Option(metavar="DIR", help="One hospital's folder, or a folder of such folders."),
    ],
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write all scores here.")
    ] = None,
) -> None:
    """Score a model on every labelled patient: Dice, HD95 in mm and volumes in mL.

    A model of tables is scored by accuracy and AUROC; one of X-rays by AUROC, average precision,
    sensitivity and calibration error of each class against the others.
    Dice is 1 where neither mask has the structure and 0 where one has. HD95 is 0 where neither has
    it; where only one has there is no distance (null), and the patient counts in Dice alone.
    Intervals are 95 % bootstrap intervals of the mean over patients.
    """
    import torch

    from consortium.models.bundle import load_bundle, require_match
    from consortium.tasks.classification.dataset import LABELS
    from consortium.tasks.classification.settings import ClassificationSettings
    from consortium.tasks.segmentation.inference import load_case, predict_case
    from consortium.tasks.segmentation.scores import score_case
    from consortium.tasks.segmentation.settings import SegmentationSettings
    from consortium.tasks.tabular.dataset import TABLE
    from consortium.tasks.tabular.settings import TabularSettings

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings, network = load_bundle(model, device)
    write = _writer(json_file)
    if isinstance(settings, TabularSettings):
        evaluate_table(settings, network.cpu(), _folders(data, TABLE), write)
        return
    if isinstance(settings, ClassificationSettings):
        evaluate_radiographs(settings, network, device, _folders(data, LABELS), write)
        return
    assert isinstance(settings, SegmentationSettings)
    hospitals = _hospitals(data)
    for datalist in hospitals.values():
        require_match(settings, datalist)
    names = list(settings.data.labels)
    cases: list[dict[str, Any]] = []
    total = sum(len(datalist.cases) for datalist in hospitals.values())
    with progress_bar("Scoring patients") as progress:
        for hospital, datalist in hospitals.items():
            for entry in datalist.cases:
                case = load_case(settings, entry.image, entry.label, entry.values)
                assert case.label_original is not None
                scores = score_case(
                    predict_case(network, case, settings, device),
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
    write(
        {
            "cases": cases,
            **_as_json(_summaries(cases, names)),
            "hospitals": {
                hospital: _as_json(_summaries(group, names)) for hospital, group in groups.items()
            },
        }
    )
    if len(groups) > 1:
        groups[ALL] = cases
    _print({group: _summaries(members, names) for group, members in groups.items()}, names)


def _writer(json_file: Path | None) -> Callable[[dict[str, Any]], None]:
    from consortium.core.files import write_json

    return partial(write_json, json_file) if json_file is not None else lambda scores: None


def _hospitals(folder: Path) -> "dict[str, Datalist]":
    from consortium.tasks.segmentation.datalist import read_datalist

    return {name: read_datalist(path) for name, path in _folders(folder, "dataset.json").items()}


def _folders(folder: Path, file: str) -> dict[str, Path]:
    """The hospital's, where it holds the file, or those of the hospitals in it."""
    from consortium.tasks.folders import hospital_folders

    if (folder / file).is_file():
        return {folder.resolve().name: folder}
    return hospital_folders(folder)


def _summaries(
    cases: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> "dict[str, dict[str, Summary]]":
    """By metric and structure."""
    from consortium.tasks.scores import summarise

    return {
        metric: {name: summarise(case[metric][name] for case in cases) for name in names}
        for metric in METRICS
    }


def _as_json(summaries: "Mapping[str, Mapping[str, Summary]]") -> dict[str, Any]:
    return {
        statistic: {
            metric: {name: getattr(summary, statistic) for name, summary in of_metric.items()}
            for metric, of_metric in summaries.items()
        }
        for statistic in ("mean", "median", "interval")
    }


def _print(
    groups: "Mapping[str, Mapping[str, Mapping[str, Summary]]]", names: Sequence[str]
) -> None:
    from rich.table import Table
    from rich.text import Text

    console = table_console()
    table = Table()
    for title in ("hospital", "structure"):
        table.add_column(title, overflow="fold")
    for title in (
        "patients",
        "Dice mean [95 %]",
        "median",
        "HD95 mean [95 %], mm",
        "median",
        "without",
    ):
        table.add_column(title, justify="right")
    for group, metrics in groups.items():
        if group == ALL and len(groups) > 1:
            table.add_section()
        for name in names:
            dice, distance = metrics["dice"][name], metrics["hd95"][name]
            table.add_row(
                Text(plain(group)),
                Text(plain(name)),
                str(dice.cases),
                *_columns(dice, 3),
                *_columns(distance, 1),
                str(dice.cases - distance.cases),
            )
    console.print(table)
    console.print("without: patients without a distance, because one of the two masks is empty")


def _columns(summary: "Summary", digits: int) -> tuple[str, str]:
    if summary.mean is None or summary.median is None:
        return "-", "-"
    mean = f"{summary.mean:.{digits}f}"
    if summary.interval is not None:
        low, high = summary.interval
        mean += f" [{low:.{digits}f}, {high:.{digits}f}]"
    return mean, f"{summary.median:.{digits}f}"
