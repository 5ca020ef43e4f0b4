"""A hospital's own choices, and the error log for its own people."""

import contextlib
import traceback
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from consortium.core.errors import ConsortiumError
from consortium.core.printable import printable_lines

ERRORS = "errors.log"
"""File in a hospital's own folder with the full text of its errors."""
HOME = ".hospital"
"""Folder for what a hospital keeps over all runs; no run id begins with a dot."""


class Privacy(BaseModel):
    """What a hospital protects in every job; the section `privacy` of its `hospital.json`.

    Attributes:
        smallest_training: a hospital with fewer training patients takes no part in a job, and an
            update of fewer distinct patients does not leave.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    smallest_training: int = Field(5, ge=1)


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
