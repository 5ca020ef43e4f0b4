"""A hospital's folder, whatever the task: scans, a table of patients, or X-rays."""

from collections.abc import Callable
from pathlib import Path

from consortium.core.findings import Finding
from consortium.settings.base import (
    ClassificationSettings,
    SegmentationSettings,
    Settings,
    TabularSettings,
)
from consortium.tasks.classification.checks import check_radiographs
from consortium.tasks.classification.dataset import LABELS
from consortium.tasks.segmentation import checks
from consortium.tasks.segmentation.datalist import read_datalist
from consortium.tasks.tabular.dataset import PATIENT, TABLE, check_table, read_table


def check_folder(
    folder: Path,
    settings: Settings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Checks one hospital's folder; see `consortium.tasks.segmentation.checks` for what is found.

    Args:
        folder: the hospital's.
        settings: of the job that it is to train; without them it is checked by itself.
        progress: called with the number of cases done and of all.

    Raises:
        UsageError: there is nothing to check.
    """
    if settings is None:
        kind = _list_of(folder)
        if kind == LABELS:
            return check_radiographs(folder, None, progress)
        return (check_table if kind == TABLE else checks.check_folder)(folder, None, progress)
    if isinstance(settings, TabularSettings):
        return check_table(folder, settings, progress)
    if isinstance(settings, ClassificationSettings):
        return check_radiographs(folder, settings, progress)
    assert isinstance(settings, SegmentationSettings)
    return checks.check_folder(folder, settings, progress)


def count_cases(folder: Path, settings: Settings | None = None) -> tuple[int, int]:
    """Cases and patients of a hospital's folder.

    Raises:
        UsageError: there is nothing to count.
    """
    if isinstance(settings, TabularSettings):
        kind = TABLE
    elif isinstance(settings, ClassificationSettings):
        kind = LABELS
    else:
        kind = "" if settings else _list_of(folder)
    if kind:
        patients = [row.get(PATIENT, "") for row in read_table(folder, kind).rows]
    else:
        patients = [case.patient for case in read_datalist(folder).cases]
    return len(patients), len(set(patients))


def _list_of(folder: Path) -> str:
    """The file that lists a folder's cases, or empty for `dataset.json`."""
    if (folder / "dataset.json").exists():
        return ""
    return next((name for name in (LABELS, TABLE) if (folder / name).is_file()), "")
