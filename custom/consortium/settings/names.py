"""Names that a setting may have because a file of that name exists."""

from pathlib import Path


def names_of_files(folder: Path) -> tuple[str, ...]:
    """The names of a package's modules, sorted, without `__init__`.

    The files are listed, not imported: a network's file may import torch, which the job's process
    at a hospital does without.
    """
    return tuple(sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__"))
