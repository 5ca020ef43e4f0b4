"""The interface of a task's text for pages, progress bars and tables.

Each task has one `TaskText`: `TEXT` in its module `text`. It needs neither torch nor MONAI; see
`consortium.tasks.registry`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskText:
    """The text of one task.

    Attributes:
        key: id of the headline metric.
        tag: group of the metrics in TensorBoard, and the headline's name in it.
        headline: the metric that models are compared and selected by, as a noun.
        mean: the headline metric over several hospitals' patients, with its article.
        title: the same as a table heading.
        meaning: explanation of the metrics, for the page.
        further: explanation of the less common metrics, given the settings.
        loss: name of the training loss.
        own: name of the statistics that stay at a hospital.
        reads: progress message while a hospital reads its data.
        inputs: noun for the inputs of a model.
        progress: title of the progress bar while a model is used.
        describe: describes the model in a phrase, given the settings.
    """

    key: str
    tag: tuple[str, str]
    headline: str
    mean: str
    title: str
    meaning: str
    further: Callable[[Any], str] = lambda settings: ""
    loss: str
    own: str
    reads: str
    inputs: str
    progress: str
    describe: Callable[[Any], str]


def join(names: list[str]) -> str:
    """Joins names for a sentence: "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
