"""The errors that people read, and the exit code of each kind.

Every error is one line: a code, what is wrong, where, and what to do. The line is for the person at
the machine where it was raised; only the code, the hospital, a tensor's name and counts may cross
from a hospital to the orchestrator (see `Failure`), never the line itself.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_SAFE_CODE = re.compile(r"[a-z][a-z-]{1,40}")


class ConsortiumError(Exception):
    """Base of all errors a person is expected to read.

    Args:
        code: short, stable, lower-case words joined by hyphens; safe to send to the orchestrator.
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
        return " ".join(f"error {self.code}: {', '.join(parts)}".split())


class Incomplete(ConsortiumError):
    """The work ended, but not as declared: findings, or a hospital that dropped out."""

    exit_code = 1


class UsageError(ConsortiumError):
    """What was asked for makes no sense: a missing folder, an unknown setting or value."""

    exit_code = 2


class Refused(ConsortiumError):
    """What was given is understood and not accepted: a model of another architecture, say."""

    exit_code = 3


class EnvironmentProblem(ConsortiumError):
    """The machine does not allow it: a full disk, a missing program."""

    exit_code = 4


@dataclass(frozen=True, slots=True)
class Failure:
    """A hospital's statement that it cannot answer; all that crosses of an error.

    Attributes:
        hospital: who failed.
        code: code of the error.
    """

    hospital: str
    code: str


def failure_of(error: BaseException, hospital: str) -> Failure:
    """What may cross of an error: its code where it has one, else `internal-error`."""
    return Failure(hospital, error.code if isinstance(error, ConsortiumError) else "internal-error")


def failure_from_wire(plain: Any, sender: str) -> Failure:
    """Rebuilds a failure; a code that is none becomes `malformed`, so that no text gets through."""
    code = str(plain.get("code", "")) if isinstance(plain, Mapping) else ""
    return Failure(sender, code if _SAFE_CODE.fullmatch(code) else "malformed")
