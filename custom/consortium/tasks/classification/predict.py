"""`consortium predict` on X-rays."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from consortium.core.errors import UsageError
from consortium.core.plurals import plural
from consortium.imaging.radiographs import UnusableRadiograph, is_dicom, read_view
from consortium.tasks.base import CheckProgress, TrainedModel
from consortium.tasks.classification.dataset import Radiograph, takes_view
from consortium.tasks.classification.loading import class_probabilities
from consortium.tasks.tables import require_csv, write_table

SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm")
"""Suffixes of X-ray files in a folder; DICOM is recognised by its content too."""


def predict_radiographs(
    model: TrainedModel,
    inputs: Sequence[Path],
    output: Path,
    progress: CheckProgress,
    say: Callable[[str], None],
) -> None:
    """Writes one row for each X-ray: the probability of each class, and the likeliest class.

    Leaves out, and counts, DICOM X-rays whose header gives a view that the model does not take.

    Args:
        model: the model.
        inputs: X-ray files, or folders of such files.
        output: a .csv file.
        progress: called before each X-ray.
        say: prints a line for the user.

    Raises:
        Refused: the output would replace an X-ray.
        UsageError: an X-ray or the output cannot be used; nothing is written.
    """
    data = model.settings.data
    files = list(_files(inputs, say))
    require_csv(output, files)
    radiographs = [
        Radiograph(file, str(file), str(file), -1, "")
        for file in files
        if takes_view(read_view(file), data)
    ]
    if not radiographs:
        problem = f"the headers give other views than {', '.join(data.views)}"
        raise UsageError("other-view", problem, str(files[0]), "name frontal X-rays")
    probabilities = read_and_classify(model, radiographs, progress)
    classes = list(data.classes)
    rows = [
        (radiograph.file, *(f"{value:.6g}" for value in values), classes[int(values.argmax())])
        for radiograph, values in zip(radiographs, probabilities, strict=True)
    ]
    write_table(output, ["file", *(f"probability of {c}" for c in classes), "predicted"], rows)
    left_out = len(files) - len(radiographs)
    others = (
        f"; {left_out} more {'is' if left_out == 1 else 'are'} of another view" if left_out else ""
    )
    say(f"wrote {output}: {plural(len(rows), 'X-ray')}{others}")


def read_and_classify(
    model: TrainedModel, radiographs: Sequence[Radiograph], progress: CheckProgress
) -> NDArray[Any]:
    """Reads X-rays and gives the probability of each class, (X-rays, classes).

    Raises:
        UsageError: an X-ray cannot be read.
    """
    try:
        return class_probabilities(
            model.network, radiographs, model.settings.data, model.device, progress
        )
    except UnusableRadiograph as problem:
        finding = problem.finding
        raise UsageError(
            finding.code, finding.detail, finding.file, "export it again, or leave it out"
        ) from None


def _files(inputs: Sequence[Path], say: Callable[[str], None]) -> Iterator[Path]:
    """The X-ray files, a folder's sorted by name."""
    for path in inputs:
        if not path.is_dir():
            yield path
            continue
        visible = [file for file in sorted(path.iterdir()) if _is_visible_file(file)]
        radiographs = [file for file in visible if _is_radiograph(file)]
        if not radiographs:
            problem = "the folder holds no PNG, JPEG or DICOM"
            raise UsageError("no-xrays", problem, str(path), "name a folder of X-rays")
        others = len(visible) - len(radiographs)
        if others:
            counted = "1 other file is" if others == 1 else f"{others} other files are"
            say(f"{path}: {counted} ignored")
        yield from radiographs


def _is_visible_file(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".")


def _is_radiograph(path: Path) -> bool:
    """Recognises DICOM by its content, for archives name it without a suffix or by a UID."""
    if path.name == "DICOMDIR":
        return False
    try:
        return path.suffix.lower() in SUFFIXES or is_dicom(path)
    except OSError:  # reading it later reports why
        return True
