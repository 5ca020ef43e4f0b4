"""What people read of a task, on pages, in progress and in tables; needs neither torch nor MONAI.

Each task has one `TaskText`, `TEXT` in the module `text` of its folder; see
`consortium.tasks.registry`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskText:
    """The text of one task.

    Attributes:
        key: of the headline, for ids.
        tag: TensorBoard's group of the figures, and the headline's name in it.
        headline: the figure that models are compared and chosen by, as a noun.
        mean: the headline over several hospitals' patients, with its article.
        title: the same for the head of a table.
        meaning: of the figures, for the page.
        further: meaning of the figures that few people look at, given the settings.
        loss: what the training makes small.
        own: of a hospital's own statistics, where they never left it.
        reads: what a hospital does first.
        inputs: what a model is given.
        progress: title of the bar while a model is used.
        describe: what the model is and does, for a sentence, given the settings.
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
    """Names as a sentence lists them."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
