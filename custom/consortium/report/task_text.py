"""What a task's scores are called, and how they are read from `result.json` and `rounds.jsonl`.

A score holds figures: the Dice of each structure, a classification's accuracy and AUROC, or of
X-rays the accuracy and figures of each class. One of them, or their mean, is the headline by which
models are compared and chosen.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from consortium.protocol.metrics import CLASS_FIGURES, headline

Score = Mapping[str, Any]
_NETWORKS = {
    "unet": "U-Net",
    "segresnet": "SegResNet",
    "dynunet": "DynUNet",
    "small": "small convolutional network",
    "densenet121": "DenseNet-121",
}

FEW = 10
"""Patients of a class, and of the others, below which a figure of it only describes them."""


@dataclass(frozen=True, slots=True)
class TaskText:
    """Of one task.

    Attributes:
        key: of the headline, for ids.
        tag: TensorBoard's group of the figures, and the headline's name in it.
        headline: as a noun.
        mean: the headline over several hospitals' patients, with its article.
        meaning: of the figures, for the page.
        loss: what the training makes small.
        own: of a hospital's own statistics, where they never left it.
        reads: what a hospital does first.
    """

    key: str
    tag: tuple[str, str]
    headline: str
    mean: str
    meaning: str
    loss: str
    own: str
    reads: str


_WORDS = {
    "segmentation": TaskText(
        key="dice",
        tag=("dice_validation", "mean"),
        headline="Dice",
        mean="a mean Dice",
        meaning="Mean Dice on each hospital's own validation patients: 1 where the model's outline"
        " is the true one, 0 where they do not meet.",
        loss="Dice loss plus cross-entropy",
        own="batch-norm statistics",
        reads="reads its scans:",
    ),
    "tabular": TaskText(
        key="accuracy",
        tag=("validation", "accuracy"),
        headline="accuracy",
        mean="an accuracy",
        meaning="On each hospital's own validation patients: accuracy is the share whose class the"
        " model gives; AUROC the probability that of two patients, one of each class, the model"
        " gives the right one more (0.5 is chance).",
        loss="cross-entropy",
        own="means and deviations of the inputs",
        reads="reads its table:",
    ),
    "classification": TaskText(
        key="auroc",
        tag=("validation", "mean_AUROC"),
        headline="AUROC",
        mean="a mean AUROC",
        meaning="On each hospital's own validation patients: accuracy is the share whose class the"
        " model gives; AUROC the probability that of two patients, one of the class and one of"
        " another, the model gives the class more to the right one (0.5 is chance). A hospital"
        " tells nothing of a class that it has few patients of.",
        loss="cross-entropy",
        own="batch-norm statistics",
        reads="reads its X-rays:",
    ),
}


def text_of_task(task: str) -> TaskText:
    """The words of a task."""
    return _WORDS[task]


def figures_of(score: Score | None) -> Mapping[str, float | None]:
    """All figures of a score; none where it was withheld or not made."""
    found: Mapping[str, float | None] = (score or {}).get("dice") or {}
    return found or (score or {}).get("figures") or {}


def value_of(score: Score | None, figure: str | None = None) -> float | None:
    """One figure of a score, or its headline; None where there is none."""
    figures = figures_of(score)
    if figure is not None:
        return figures.get(figure)
    if score and score.get("dice"):
        values: Mapping[str, float] = score["dice"]
        return sum(values.values()) / len(values)
    return headline(figures)


def parts_of(figure: str) -> tuple[str, str]:
    """What a figure is and the class of X-rays it is of, empty where it is not of one."""
    what, _, name = figure.partition(", ")
    return (what, name) if what in CLASS_FIGURES else (figure, "")


def descriptive(score: Score, figure: str) -> bool:
    """Whether a class's figure says something of these patients and little of any others."""
    name = parts_of(figure)[1]
    support: Mapping[str, int] = score.get("support") or {}
    of_class = support.get(name, 0)
    return bool(name) and min(of_class, sum(support.values()) - of_class) < FEW


def describe_task(settings: Mapping[str, Any]) -> str:
    """What the model is and does, for a sentence."""
    data = settings["data"]
    if settings.get("task") == "tabular":
        columns = [*data["numbers"], *data["categories"]]
        looked_for = list(data["outcome"]["classes"])[-1]
        return f"a logistic regression that predicts {looked_for} from {join(columns)}"
    if settings.get("task") == "classification":
        network = _NETWORKS[settings["network"]["name"]]
        return f"a {network} that tells {join(list(data['classes']))} apart on frontal chest X-rays"
    return (
        f"a {data['spatial_dims']}-D {_NETWORKS[settings['network']['name']]} that outlines"
        f" {join(list(data['labels']))} on {join(data['channels'])} images"
    )


def keeps_statistics(settings: Mapping[str, Any]) -> bool:
    """Whether each hospital's own statistics never left it, and the model needs them."""
    tabular = settings.get("task") == "tabular"
    return settings["update"]["buffers"] == "local" and (
        tabular or settings["network"]["normalisation"] == "batch"
    )


def join(names: list[str]) -> str:
    """Names as a sentence lists them."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
