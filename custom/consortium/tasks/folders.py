"""Hospitals' folders, whatever the task."""

from collections.abc import Callable
from pathlib import Path

from consortium.core.errors import UsageError
from consortium.core.findings import Finding
from consortium.settings.base import Settings
from consortium.tasks.base import Task
from consortium.tasks.registry import TASKS, settings_of, task_named


def check_folder(
    folder: Path,
    settings: Settings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Checks one hospital's folder; see `consortium.tasks.segmentation.checks` for the codes.

    Args:
        folder: the hospital's.
        settings: of the job that it is to train; without them it is checked by itself.
        progress: called with the number of cases done and of all.

    Raises:
        UsageError: there is nothing to check.
    """
    return _task(folder, settings).check(folder, settings, progress)


def count_cases(folder: Path, settings: Settings | None = None) -> tuple[int, int]:
    """Cases and patients of a hospital's folder.

    Raises:
        UsageError: there is nothing to count.
    """
    return _task(folder, settings).count(folder)


def _task(folder: Path, settings: Settings | None) -> Task:
    """The job's task, or the first one whose list of cases the folder holds."""
    if settings is not None:
        return task_named(settings.task)
    listed = (task for task in TASKS if (folder / settings_of(task).listing).is_file())
    return task_named(next(listed, next(iter(TASKS))))


def hospital_folders(root: Path) -> dict[str, Path]:
    """The folders of a study's hospitals below `root`, by hospital name, sorted.

    Raises:
        UsageError: `missing-folder`, or `no-hospitals` where none holds a `dataset.json`.
    """
    if not root.is_dir():
        raise UsageError("missing-folder", "no such folder", str(root), "check --data")
    found = {
        child.name: child
        for child in sorted(root.iterdir())
        if child.is_dir() and not child.name.startswith(".")
    }
    if not found:
        raise UsageError(
            "no-hospitals", "no folder of a hospital", str(root), "give one folder a hospital"
        )
    return found


def folders_with(folder: Path, listing: str) -> dict[str, Path]:
    """One hospital's folder, where it lists its cases itself, or those of the hospitals in it.

    Args:
        folder: a hospital's, or one that holds hospitals' folders.
        listing: see `Settings.listing`.

    Raises:
        UsageError: see `hospital_folders`.
    """
    if (folder / listing).is_file():
        return {folder.resolve().name: folder}
    return hospital_folders(folder)
