"""A hospital's folder, whatever the task: scans with a `dataset.json`, or a table of patients."""

from collections.abc import Callable
from pathlib import Path

from consortium.data import checks
from consortium.data.datalist import read_datalist
from consortium.data.findings import Finding
from consortium.data.table import PATIENT, TABLE, check_table, read_table
from consortium.settings import SegmentationSettings, Settings, TabularSettings


def check_folder(
    folder: Path,
    settings: Settings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Checks one hospital's folder; see `consortium.data.checks` for what is found.

    Args:
        folder: the hospital's.
        settings: of the job that it is to train; without them it is checked by itself.
        progress: called with the number of cases done and of all.

    Raises:
        UsageError: there is nothing to check.
    """
    if settings is None:
        return (check_table if _is_table(folder) else checks.check_folder)(folder, None, progress)
    if isinstance(settings, TabularSettings):
        return check_table(folder, settings, progress)
    assert isinstance(settings, SegmentationSettings)
    return checks.check_folder(folder, settings, progress)


def count_cases(folder: Path, settings: Settings | None = None) -> tuple[int, int]:
    """Cases and patients of a hospital's folder.

    Raises:
        UsageError: there is nothing to count.
    """
    table = _is_table(folder) if settings is None else isinstance(settings, TabularSettings)
    if table:
        patients = [row.get(PATIENT, "") for row in read_table(folder).rows]
    else:
        patients = [case.patient for case in read_datalist(folder).cases]
    return len(patients), len(set(patients))


def _is_table(folder: Path) -> bool:
    return (folder / TABLE).is_file() and not (folder / "dataset.json").exists()
