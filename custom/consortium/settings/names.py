"""Values of a setting that are names of files."""

from pathlib import Path


def names_of_files(folder: Path) -> tuple[str, ...]:
    """Lists the names of a package's modules, sorted, without `__init__`.

    The files are not imported: a network's file may import torch, which the job's process at a
    hospital does not need.
    """
    return tuple(sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__"))
