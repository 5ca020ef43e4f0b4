"""Finds, checks and counts hospitals' folders, for every task."""

from collections.abc import Callable
from pathlib import Path

from consortium.core.errors import UsageError
from consortium.core.findings import Finding
from consortium.settings.base import Settings
from consortium.tasks.base import Task
from consortium.tasks.columns import Proposal
from consortium.tasks.registry import TASKS, settings_of, task_named


def check_folder(
    folder: Path,
    settings: Settings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Checks one hospital's folder; see `consortium.core.finding_codes` for the codes.

    Args:
        folder: the hospital's folder.
        settings: settings of the job; without them, the folder is checked against its own list.
        progress: called with the number of cases done and in total.

    Raises:
        UsageError: the folder lists no cases.
    """
    return _task(folder, settings).check(folder, settings, progress)


def count_cases(folder: Path, settings: Settings | None = None) -> tuple[int, int]:
    """Counts the cases and the patients of a hospital's folder.

    Raises:
        UsageError: the folder lists no cases.
    """
    return _task(folder, settings).count(folder)


def propose_columns(folder: Path, settings: Settings | None = None) -> Proposal:
    """Proposes the columns of a hospital's table that jobs may read; see `Task.propose`.

    Raises:
        UsageError: the folder lists no cases.
    """
    return _task(folder, settings).propose(folder, settings)


def _task(folder: Path, settings: Settings | None) -> Task:
    """The job's task; without a job, the first task whose list of cases is in the folder."""
    if settings is not None:
        return task_named(settings.task)
    listed = (task for task in TASKS if (folder / settings_of(task).listing).is_file())
    return task_named(next(listed, next(iter(TASKS))))


def hospital_folders(root: Path) -> dict[str, Path]:
    """The hospitals' folders in `root`, by hospital, sorted by name.

    Raises:
        UsageError: `missing-folder`, or `no-hospitals` if `root` holds no folder.
    """
    if not root.is_dir():
        raise UsageError("missing-folder", "no such folder", str(root), "check --data")
    folders = {
        child.name: child
        for child in sorted(root.iterdir())
        if child.is_dir() and not child.name.startswith(".")
    }
    if not folders:
        raise UsageError(
            "no-hospitals",
            "it holds no folder of a hospital",
            str(root),
            "put one folder for each hospital into it",
        )
    return folders


def folders_with(folder: Path, listing: str) -> dict[str, Path]:
    """Returns the folder itself if it lists cases, else the hospitals' folders in it.

    Args:
        folder: a hospital's folder, or one that holds hospitals' folders.
        listing: file that lists the cases; see `Settings.listing`.

    Raises:
        UsageError: see `hospital_folders`.
    """
    if (folder / listing).is_file():
        return {folder.resolve().name: folder}
    return hospital_folders(folder)
