"""`consortium predict` where the patients have X-rays."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from consortium.core.errors import UsageError
from consortium.imaging.radiographs import UnusableRadiograph, is_dicom, read_view
from consortium.tasks.base import CheckProgress, TrainedModel
from consortium.tasks.classification.dataset import Radiograph, takes_view
from consortium.tasks.classification.loading import class_probabilities
from consortium.tasks.tables import require_csv, write_table

SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm")
"""Of the files of a folder that are X-rays; DICOM is recognised by its content too."""


def predict_radiographs(
    model: TrainedModel,
    inputs: Sequence[Path],
    output: Path,
    progress: CheckProgress,
    say: Callable[[str], None],
) -> None:
    """Writes a row for each X-ray: the probability of each class, and the likeliest class.

    A DICOM X-ray whose header names a view that the model does not take is left out, and counted.

    Args:
        model: the model.
        inputs: files of X-rays, or folders of such files.
        output: a .csv file.
        progress: called before each X-ray.
        say: takes lines for the person who waits.

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
        others = f"the headers name other views than {', '.join(data.views)}"
        raise UsageError("other-view", others, str(files[0]), "name frontal X-rays")
    probabilities = read_and_classify(model, radiographs, progress)
    classes = list(data.classes)
    rows = [
        (radiograph.file, *(f"{value:.6g}" for value in values), classes[int(values.argmax())])
        for radiograph, values in zip(radiographs, probabilities, strict=True)
    ]
    write_table(output, ["file", *(f"probability of {c}" for c in classes), "predicted"], rows)
    left_out = len(files) - len(radiographs)
    others = f"; {left_out} more are of another view" if left_out else ""
    say(f"wrote {output}: {len(rows)} X-rays{others}")


def read_and_classify(
    model: TrainedModel, radiographs: Sequence[Radiograph], progress: CheckProgress
) -> NDArray[Any]:
    """The probability of each class (X-rays, C).

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
    """The files, those of a folder by name."""
    for path in inputs:
        if not path.is_dir():
            yield path
            continue
        visible = [each for each in sorted(path.iterdir()) if _is_visible_file(each)]
        inside = [each for each in visible if _is_radiograph(each)]
        if not inside:
            raise UsageError("no-xrays", "no PNG, JPEG or DICOM in it", str(path), "name a folder")
        others = len(visible) - len(inside)
        if others:
            counted = "1 other file is" if others == 1 else f"{others} other files are"
            say(f"{path}: {counted} passed over")
        yield from inside


def _is_visible_file(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".")


def _is_radiograph(path: Path) -> bool:
    """DICOM is recognised by its content, for archives name it without a suffix or by a UID."""
    if path.name == "DICOMDIR":
        return False
    try:
        return path.suffix.lower() in SUFFIXES or is_dicom(path)
    except OSError:  # reading it says why
        return True
