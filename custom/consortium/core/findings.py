"""What a check says about a hospital's data.

A finding is for the people at that hospital: it may name a file, so it never leaves the hospital.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or odd, in a hospital's folder.

    Attributes:
        code: short, stable, lower-case words joined by hyphens;
            `consortium.tasks.segmentation.checks` lists all.
        severity: an `error` makes the folder unfit for training, a `warning` wants a look.
        file: path relative to the hospital's folder, or empty where no single file is concerned.
        detail: what was seen, with counts and values.
    """

    code: str
    severity: Literal["error", "warning"]
    file: str
    detail: str


def error(code: str, file: str, detail: str) -> Finding:
    """A finding that makes the folder unfit for training."""
    return Finding(code, "error", file, detail)


def warning(code: str, file: str, detail: str) -> Finding:
    """A finding that a person should look at."""
    return Finding(code, "warning", file, detail)
