"""Whether a hospital's data fit a job, told to the orchestrator as one code."""

from collections.abc import Callable

from consortium.core.errors import Refused, UsageError
from consortium.core.site_policy import Site
from consortium.settings.base import Settings
from consortium.tasks.folders import check_folder
from consortium.tasks.registry import task_of

_OF_THE_HOSPITAL = ("missing-folder",)
"""Codes that no setting of a job changes; they say nothing about patients."""


def require_fit(site: Site, settings: Settings, progress: Callable[[int, int], None]) -> None:
    """Refuses a job whose columns, ranges or checks do not fit the hospital's data.

    A code of its own for each misfit would answer questions about patients. The detail is in the
    error's text, which stays at the hospital.

    Args:
        site: the hospital's own choices.
        settings: the job's.
        progress: called with the number of cases done and in total; it may raise to stop.

    Raises:
        UsageError: `data-unfit`, or `missing-folder`.
    """
    try:
        bound = task_of(settings).bound(settings, site.privacy.columns)
        findings = check_folder(site.data, bound, progress)
    except (UsageError, Refused) as problem:
        if problem.code in _OF_THE_HOSPITAL:
            raise
        what = problem.what if problem.code == "data-unfit" else f"{problem.code}: {problem.what}"
        raise UsageError("data-unfit", what, problem.where, problem.todo) from None
    for finding in findings:
        if finding.severity == "error":
            what = f"{finding.code}: {finding.detail}"
            raise UsageError("data-unfit", what, finding.file, "see consortium check-data")
