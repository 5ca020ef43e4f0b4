"""A hospital's own choices, and the error log for its own people."""

import contextlib
import traceback
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from consortium.core.errors import ConsortiumError

ERRORS = "errors.log"
"""File in a hospital's own folder with the full text of its errors."""


@dataclass(frozen=True, slots=True)
class Site:
    """A hospital's own choices.

    Attributes:
        name: the hospital's name in the study.
        data: the folder with its data, arranged as the task declares.
        state: the folder for what it keeps between rounds.
        smallest_group: metrics over fewer patients are not sent.
        share_local_model: whether other hospitals may score the model that it trained.
    """

    name: str
    data: Path
    state: Path
    smallest_group: int = 5
    share_local_model: bool = False


def note_error(folder: Path, error: Exception) -> None:
    """Adds the full text of an error to a folder's `errors.log`; ignores its own failures."""
    message = str(error)
    if not isinstance(error, ConsortiumError):
        message = "".join(traceback.format_exception(error)).rstrip()
    # A failure here must not reach FLARE, which would log it with the error's own text.
    with contextlib.suppress(Exception):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ERRORS).open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{datetime.now().isoformat(timespec='seconds')} {message}\n")
