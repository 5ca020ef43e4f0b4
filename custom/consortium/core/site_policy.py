"""A hospital's own choices, and the error log for its own people."""

import contextlib
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from consortium.core.errors import ConsortiumError
from consortium.core.printable import printable_lines
from consortium.core.setting_limits import SettingLimits

ERRORS = "errors.log"
"""File in a hospital's own folder with the full text of its errors."""
HOME = ".hospital"
"""Folder for what a hospital keeps over all runs; no run id begins with a dot."""

ALL_COLUMNS = "all"
"""Releases every column, for public or generated data: the ranges are then the job's."""

_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Range = Annotated[list[_Number], Field(min_length=2, max_length=2)]
_Values = Annotated[list[Annotated[str, Field(strict=True)]], Field(min_length=1)]
Columns = Literal["all"] | Mapping[str, Sequence[float] | Sequence[str]]
"""The columns that jobs may read: of numbers with the lowest and the highest value, of categories
with all values, as texts."""


class Privacy(BaseModel):
    """What a hospital protects in every job; the section `privacy` of its `hospital.json`.

    Attributes:
        smallest_training: a hospital with fewer training patients takes no part in a job, and an
            update of fewer distinct patients does not leave.
        randomness: what draws the order of the batches, besides the job: a `secret` of the
            hospital, so that nobody can subtract two jobs, or the job's `seed` alone. The latter
            makes runs repeatable for everybody; it is for public or generated data.
        settings: ranges of a job's settings. A job outside is refused before data are opened.
        questions: number of models whose scores it reports, for the data of a task and over all
            runs; 0 reports no score.
        columns: columns of its table that jobs may read, each with its lowest and highest number or
            its values as texts; `consortium check-data --propose` writes them. By default none, so
            that jobs on tables and X-rays are refused. `"all"` is for public or generated data.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    smallest_training: int = Field(5, ge=1)
    randomness: Literal["secret", "seed"] = "secret"
    settings: SettingLimits = Field(default_factory=SettingLimits)
    questions: int = Field(1000, ge=0)
    columns: Literal["all"] | dict[str, _Range | _Values] = Field(default={})

    @field_validator("columns")
    @classmethod
    def _ascending(cls, columns: Any) -> Any:
        for name, column in columns.items() if columns != ALL_COLUMNS else ():
            if not isinstance(column[0], str) and column[0] >= column[1]:
                raise ValueError(f"{name}: give the lowest value, then the highest")
        return columns


def simulated_privacy(smallest_training: int) -> Privacy:
    """The choices of a hospital in a simulation, which anybody can repeat."""
    return Privacy(smallest_training=smallest_training, randomness="seed", columns=ALL_COLUMNS)


@dataclass(frozen=True, slots=True)
class Site:
    """A hospital's own choices.

    Attributes:
        name: the hospital's name in the study.
        data: the folder with its data, arranged as the task declares.
        state: the folder for what it keeps between rounds.
        smallest_group: metrics over fewer patients are not sent.
        share_local_model: whether other hospitals may score the model that it trained.
        privacy: what it protects in every job.
        home: folder for what it keeps over all runs, such as its secret. By default in `state`.
    """

    name: str
    data: Path
    state: Path
    smallest_group: int = 5
    share_local_model: bool = False
    privacy: Privacy = field(default_factory=Privacy)
    home: Path = Path()

    def __post_init__(self) -> None:
        if self.home == Path():
            object.__setattr__(self, "home", self.state / HOME)


def note_error(folder: Path, error: Exception) -> None:
    """Adds the full text of an error to a folder's `errors.log`; ignores its own failures."""
    message = str(error)
    if not isinstance(error, ConsortiumError):
        message = "".join(traceback.format_exception(error)).rstrip()
    # A failure here must not reach FLARE, which would log it with the error's own text.
    with contextlib.suppress(Exception):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ERRORS).open("a", encoding="utf-8", errors="backslashreplace") as file:
            now = datetime.now().isoformat(timespec="seconds")
            file.write(f"{now} {printable_lines(message)}\n")
