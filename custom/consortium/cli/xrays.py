"""`consortium predict` and `evaluate` where the patients have X-rays."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consortium.cli.scores import (
    ALL,
    all_scores,
    estimate,
    plain,
    progress_bar,
    table_console,
)
from consortium.cli.table import require_csv
from consortium.core.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import device
    from torch.nn import Module

    from consortium.protocol.metrics import Classification
    from consortium.tasks.classification.dataset import Radiograph
    from consortium.tasks.classification.settings import ClassificationSettings

SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm")
"""Of the files of a folder that are X-rays; DICOM is told by its content too."""


def predict_radiographs(
    settings: "ClassificationSettings",
    network: "Module",
    device: "device",
    images: Sequence[Path],
    output: Path,
) -> None:
    """Writes a row for each X-ray: the probability of each class, and the likeliest class.

    A DICOM X-ray whose header names a view that the model does not take is left out, and counted.

    Args:
        settings: of the model.
        network: the model.
        device: where it is.
        images: files of X-rays, or folders of such files.
        output: a .csv file.

    Raises:
        Refused: the output would replace an X-ray.
        UsageError: an X-ray or the output cannot be used; nothing is written.
    """
    from consortium.imaging.radiographs import read_view
    from consortium.tasks.classification.dataset import Radiograph, takes_view
    from consortium.tasks.tables import write_table

    files = list(_files(images))
    require_csv(output, files)
    radiographs = [
        Radiograph(file, str(file), str(file), -1, "")
        for file in files
        if takes_view(read_view(file), settings.data)
    ]
    if not radiographs:
        told = f"the headers name other views than {', '.join(settings.data.views)}"
        raise UsageError("other-view", told, str(files[0]), "name frontal X-rays")
    found = _predict(settings, network, device, radiographs)
    classes = list(settings.data.classes)
    rows = [
        (radiograph.file, *(f"{value:.6g}" for value in values), classes[int(values.argmax())])
        for radiograph, values in zip(radiographs, found, strict=True)
    ]
    write_table(output, ["file", *(f"probability of {c}" for c in classes), "predicted"], rows)
    left_out = len(files) - len(radiographs)
    told = f"; {left_out} more are of another view" if left_out else ""
    print(f"wrote {output}: {len(rows)} X-rays{told}")


def evaluate_radiographs(
    settings: "ClassificationSettings",
    network: "Module",
    device: "device",
    folders: Mapping[str, Path],
    write: Callable[[dict[str, Any]], None],
) -> None:
    """Scores a model on all X-rays of each hospital that the job takes, and prints a table.

    Args:
        settings: of the model.
        network: the model.
        device: where it is.
        folders: of the hospitals.
        write: takes all scores as JSON values.

    Raises:
        UsageError: a hospital's folder or an X-ray cannot be used.
        Refused: `labels.csv` is not of the model's classes.
    """
    import numpy as np

    from consortium.tasks.classification.dataset import read_radiographs

    classes = list(settings.data.classes)
    cases: list[dict[str, Any]] = []
    scores: dict[str, Classification] = {}
    found: list[NDArray[Any]] = []
    all_radiographs: list[Radiograph] = []
    all_patients: list[str] = []
    for name, folder in folders.items():
        radiographs = read_radiographs(folder, settings.data).radiographs
        if not radiographs:
            raise UsageError("empty-hospital", "no X-ray that the model takes", name, "list them")
        found.append(_predict(settings, network, device, radiographs))
        scores[name] = _score(
            settings, found[-1], radiographs, [radiograph.patient for radiograph in radiographs]
        )
        all_radiographs += radiographs
        all_patients += [f"{name}/{radiograph.patient}" for radiograph in radiographs]
        cases += [
            {
                "patient": radiograph.patient,
                "hospital": name,
                "file": radiograph.file,
                "probabilities": dict(zip(classes, values.tolist(), strict=True)),
                "class": classes[radiograph.label],
            }
            for radiograph, values in zip(radiographs, found[-1], strict=True)
        ]
    total = _score(settings, np.concatenate(found), all_radiographs, all_patients)
    write(all_scores(cases, scores, total))
    if len(scores) > 1:
        scores[ALL] = total
    _print(scores, classes, settings.data.specificity)


def _files(images: Sequence[Path]) -> Iterator[Path]:
    """The files, those of a folder by name."""
    for image in images:
        if not image.is_dir():
            yield image
            continue
        found = [path for path in sorted(image.iterdir()) if _is_visible_file(path)]
        inside = [path for path in found if _is_radiograph(path)]
        if not inside:
            raise UsageError("no-xrays", "no PNG, JPEG or DICOM in it", str(image), "name a folder")
        others = len(found) - len(inside)
        if others:
            told = "1 other file is" if others == 1 else f"{others} other files are"
            print(f"{image}: {told} passed over")
        yield from inside


def _is_visible_file(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".")


def _is_radiograph(path: Path) -> bool:
    """DICOM is told by its content, for archives name it without a suffix or by a UID."""
    from consortium.imaging.radiographs import is_dicom

    if path.name == "DICOMDIR":
        return False
    try:
        return path.suffix.lower() in SUFFIXES or is_dicom(path)
    except OSError:  # reading it says why
        return True


def _predict(
    settings: "ClassificationSettings",
    network: "Module",
    device: "device",
    radiographs: "Sequence[Radiograph]",
) -> "NDArray[Any]":
    """The probability of each class (X-rays, C)."""
    from consortium.imaging.radiographs import UnusableRadiograph
    from consortium.tasks.classification import task as classification

    try:
        with progress_bar("Reading X-rays") as progress:
            return classification.predict_radiographs(
                network, radiographs, settings, device, progress
            )
    except UnusableRadiograph as problem:
        found = problem.finding
        raise UsageError(
            found.code, found.detail, found.file, "export it again, or leave it out"
        ) from None


def _score(
    settings: "ClassificationSettings",
    probabilities: "NDArray[Any]",
    radiographs: "Sequence[Radiograph]",
    patients: Sequence[str],
) -> "Classification":
    import numpy as np

    from consortium.tasks.classification.scores import classify_radiographs

    return classify_radiographs(
        probabilities,
        np.array([radiograph.label for radiograph in radiographs]),
        patients,
        list(settings.data.classes),
        1,
        specificity=settings.data.specificity,
    )[1]


def _print(
    scores: "Mapping[str, Classification]", classes: Sequence[str], specificity: float
) -> None:
    from rich.table import Table
    from rich.text import Text

    from consortium.protocol.metrics import CLASS_FIGURES, FIGURES, class_figure
    from consortium.report.task_text import FEW

    table = Table()
    for title in ("hospital", "class"):
        table.add_column(title, overflow="fold")
    table.add_column("patients", justify="right")
    for figure in CLASS_FIGURES:
        told = f" at specificity {specificity:g}" if figure == "sensitivity" else ""
        table.add_column(f"{figure}{told} [95 %]", justify="right")
    for name, score in scores.items():
        table.add_section()
        for one in classes:
            figures = [estimate(score, class_figure(figure, one)) for figure in CLASS_FIGURES]
            support = (score.support or {}).get(one, 0)
            table.add_row(Text(plain(name)), Text(plain(one)), str(support), *figures)
    console = table_console()
    console.print(table)
    for name, score in scores.items():
        told = estimate(score, FIGURES[0])
        console.print(Text(f"{FIGURES[0]}, {plain(name)}: {told}"))
    console.print(
        f"descriptive: of fewer than {FEW} patients of the class, or of all others, the figure says"
        " how these fared and little of any others"
    )
