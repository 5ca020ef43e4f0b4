"""The errors that people read, and the exit code of each kind.

Every error is one line: a code, what is wrong, where, and what to do. The line is for the person at
the machine where it was raised. A hospital sends the orchestrator only the code, its name, a
tensor's name and counts (see `Failure`), never the line itself.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from consortium.core.printable import printable

_SAFE_CODE = re.compile(r"[a-z][a-z-]{1,40}")


class ConsortiumError(Exception):
    """Base of all errors that a person is expected to read.

    Args:
        code: short and stable, lower-case words joined by hyphens; safe to send to the
            orchestrator.
        what: what is wrong.
        where: the file, hospital, setting or tensor concerned; may be empty.
        todo: what the reader can do about it.
    """

    exit_code = 1

    def __init__(self, code: str, what: str, where: str = "", todo: str = ""):
        self.code, self.what, self.where, self.todo = code, what, where, todo
        super().__init__(code, what, where, todo)

    def __str__(self) -> str:
        parts = [part for part in (self.what, self.where, self.todo) if part]
        return printable(" ".join(f"error {self.code}: {', '.join(parts)}".split()))


class Incomplete(ConsortiumError):
    """The work ended, but not as declared: with findings, or without a hospital."""

    exit_code = 1


class UsageError(ConsortiumError):
    """The command cannot be carried out: a missing folder, an unknown setting or value."""

    exit_code = 2


class Refused(ConsortiumError):
    """The input is readable but not accepted, such as a model of another architecture."""

    exit_code = 3


class EnvironmentProblem(ConsortiumError):
    """The machine prevents the work: a full disk, a missing program."""

    exit_code = 4


@dataclass(frozen=True, slots=True)
class Failure:
    """A hospital's report that it cannot answer: all that leaves the hospital about an error.

    Attributes:
        hospital: name of the hospital.
        code: code of the error.
    """

    hospital: str
    code: str


def failure_of(error: BaseException, hospital: str) -> Failure:
    """Reduces an error to what may leave the hospital: its code, else `internal-error`."""
    return Failure(hospital, error.code if isinstance(error, ConsortiumError) else "internal-error")


def failure_from_wire(plain: Any, sender: str) -> Failure:
    """Rebuilds a failure; an invalid code becomes `malformed`, so that no text gets through."""
    code = str(plain.get("code", "")) if isinstance(plain, Mapping) else ""
    return Failure(sender, code if _SAFE_CODE.fullmatch(code) else "malformed")
