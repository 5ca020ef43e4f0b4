"""What a hospital decides for itself, and what it tells its own people."""

import contextlib
import traceback
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from consortium.core.errors import ConsortiumError

ERRORS = "errors.log"
"""File in a hospital's own folder that says in full what went wrong there."""


@dataclass(frozen=True, slots=True)
class Site:
    """What a hospital decides for itself.

    Attributes:
        name: of the hospital in the study.
        data: its folder, in the layout of the task.
        state: a folder of its own for what it keeps between rounds.
        smallest_group: a metric over fewer patients is not sent.
        share_local_model: whether other hospitals may score the model it trained.
    """

    name: str
    data: Path
    state: Path
    smallest_group: int = 5
    share_local_model: bool = False


def note_error(folder: Path, error: Exception) -> None:
    """Adds an error to a folder's `errors.log`, in full; what fails here is left at that."""
    told = str(error)
    if not isinstance(error, ConsortiumError):
        told = "".join(traceback.format_exception(error)).rstrip()
    # Whatever fails here must not reach FLARE, which would log it with the error's own text.
    with contextlib.suppress(Exception):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ERRORS).open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{datetime.now().isoformat(timespec='seconds')} {told}\n")
