"""Findings: the reports of checks about a hospital's data.

A finding is for the people at that hospital. It may name a file, so it never leaves the hospital.
"""

from dataclasses import dataclass

from consortium.core.finding_codes import FINDING_CODES, Severity


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault or oddity in a hospital's folder.

    Attributes:
        code: a code of `consortium.core.finding_codes`.
        severity: an `error` makes the folder unfit for training; a person checks a `warning`.
        file: path relative to the hospital's folder, or empty if no single file is concerned.
        detail: what the check saw, with counts and values.
    """

    code: str
    severity: Severity
    file: str
    detail: str


def error(code: str, file: str, detail: str) -> Finding:
    """Creates a finding that makes the folder unfit for training.

    Raises:
        ValueError: the code is not registered, or registered as a warning.
    """
    return _finding(code, "error", file, detail)


def warning(code: str, file: str, detail: str) -> Finding:
    """Creates a finding that a person should check.

    Raises:
        ValueError: the code is not registered, or registered as an error.
    """
    return _finding(code, "warning", file, detail)


def _finding(code: str, severity: Severity, file: str, detail: str) -> Finding:
    registered = FINDING_CODES.get(code)
    if registered is None or registered.severity != severity:
        raise ValueError(f"{severity} {code} is not in consortium.core.finding_codes")
    return Finding(code, severity, file, detail)
