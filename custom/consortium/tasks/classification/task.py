"""Classification: classes of frontal chest X-rays are told apart.

A patient counts once for each of its labels, however many films it has: in the weight of the
hospital, in what is drawn for training, and in the scores. Beside the scores a hospital tells, once
a run, what the provenance probe needs: moments of what the model says of its held-out patients
(`consortium.confounding`), and draws for itself where on a film the model looks.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consortium.confounding.acquisition import NAMES, surface
from consortium.confounding.moments import moments, project
from consortium.confounding.statement import GroupMoments, Statement
from consortium.core.errors import Refused
from consortium.core.files import replace_file, whole_folder
from consortium.core.site_policy import Site
from consortium.imaging.radiographs import read_pixels
from consortium.protocol.metrics import Classification
from consortium.settings.base import ClassificationSettings, Films
from consortium.tasks.base import CheckProgress, Task, Work
from consortium.tasks.class_scores import classify_films
from consortium.tasks.classification.attention import draw_attention
from consortium.tasks.classification.dataset import (
    IMAGES,
    LABELS,
    VIEW,
    Film,
    FilmList,
    read_films,
    split_films,
)
from consortium.tasks.classification.networks import (
    network_config,
    pooled_features,
    take_pretrained,
)
from consortium.tasks.classification.transforms import augment, prepare, preprocessing_config
from consortium.tasks.tabular.dataset import PATIENT, SIDES, SPLIT, write_table

PICTURES = "attention"
"""Folder of a hospital's own, with films and where the model looks."""

_BATCH = 64  # films, in evaluation
_ABSENT = -1e4  # logarithm of the share of a class that a hospital has no case of


class Classifying(Work):
    """The films of one hospital; see `Work`.

    Args:
        site: the hospital's own choices.
        settings: the job's.
        device: where to train.
        progress: called before each film that is read.
    """

    def __init__(
        self,
        site: Site,
        settings: ClassificationSettings,
        device: torch.device,
        progress: CheckProgress,
    ):
        self._site, self._settings, self._device = site, settings, device
        self._progress = progress
        found = read_films(site.data, settings.data)
        self._training, self._validation = split_films(found, settings.data)
        self._units = sorted({(film.patient, film.label) for film in self._training})
        self.cases = len(self._units)
        self.patients = len({film.patient for film in self._training})
        counts = np.bincount([label for _, label in self._units], minlength=len(self._classes))
        self._shares = counts / max(1, counts.sum())
        self._held: Tensor | None = None
        self._kept_out: tuple[Tensor, NDArray[np.float64]] | None = None

    @property
    def _classes(self) -> list[str]:
        return list(self._settings.data.classes)

    @property
    def samples(self) -> int:
        """Patients."""
        return self.cases

    def batches(self, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Films and their classes; of each patient that is drawn one film, at random."""
        films = self._training_films()
        numbers = np.random.default_rng(seed)
        changes = torch.Generator().manual_seed(seed)
        labels = torch.tensor([film.label for film in self._training])
        draw = _Draw(self._training, self._settings.training.sampling)
        for chosen in draw.batches(size, numbers):
            batch = films[chosen]
            yield augment(batch, changes) if self._settings.data.augment else batch, labels[chosen]

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, in the form that `training.loss` names."""
        kind = self._settings.training.loss
        shares = torch.as_tensor(self._shares, dtype=logits.dtype, device=logits.device)
        if kind == "adjusted":
            logits = logits + shares.log().clamp(min=_ABSENT)
        weight = None
        if kind == "weighted":
            weight = 1 / (shares.clamp(min=1e-6) * (shares > 0).sum())
        return torch.nn.functional.cross_entropy(logits, targets, weight)

    def measure(
        self, network: torch.nn.Module, progress: CheckProgress, pulse: Callable[[], None]
    ) -> tuple[float, Classification | None]:
        """The figures of each class on the validation patients.

        Their mean AUROC is what a model is chosen by; where there is none, accuracy.
        """
        if not self._validation:
            return 0.0, None
        films, _ = self._validation_films()
        progress(0, len(films))
        probabilities = _run(network, films, self._device, pulse)
        accuracy, score = classify_films(
            probabilities,
            np.array([film.label for film in self._validation]),
            [film.patient for film in self._validation],
            self._classes,
            self._site.smallest_group,
            specificity=self._settings.data.specificity,
        )
        return (accuracy if score.value is None else score.value), score

    def testify(self, network: torch.nn.Module) -> Statement:
        """What the provenance probe needs; and pictures for the hospital's own people."""
        smallest, least = self._site.smallest_group, max(2, self._site.smallest_group)
        counts = np.bincount([label for _, label in self._units], minlength=len(self._classes))
        # They make up the whole weight, which everybody knows: else the class that is withheld
        # would be what is left of it.
        whole = counts.sum() / max(1, counts[counts >= least].sum())
        shares = {
            name: round(count * whole)
            for name, count in zip(self._classes, counts, strict=True)
            if count >= least
        }
        if not self._validation:
            return Statement(shares=shares)
        films, seen = self._validation_films()
        with pooled_features(network) as features:
            probabilities = _run(network, films, self._device)
        odds = np.log(probabilities.clip(1e-12)) - np.log((1 - probabilities).clip(1e-12))
        values = torch.cat(features).double().cpu().numpy()
        chosen, seed = self._settings.provenance, self._settings.seed
        self._draw_pictures(network, films)
        return Statement(
            shares=shares,
            scores=self._groups(odds, smallest),
            features=self._groups(project(values, chosen.dimensions, seed), smallest),
            surface=self._groups(project(seen, chosen.dimensions, seed), smallest),
        )

    def _groups(self, values: NDArray[np.float64], smallest: int) -> dict[str, GroupMoments]:
        """Moments by label, of groups with more patients than values have dimensions."""
        found = {}
        labels = np.array([film.label for film in self._validation])
        for number, name in enumerate(self._classes):
            places = np.flatnonzero(labels == number)
            told = moments(
                values[places],
                [self._validation[place].patient for place in places],
                max(smallest, values.shape[1] + 1),
            )
            if told is not None:
                found[name] = GroupMoments.of(told)
        return found

    def _draw_pictures(self, network: torch.nn.Module, films: Tensor) -> None:
        """The first validation films of each class, with where the model looks for that class."""
        folder = self._site.state / PICTURES
        for number, name in enumerate(self._classes):
            places = [p for p, film in enumerate(self._validation) if film.label == number]
            plain = "".join(char if char.isalnum() else "-" for char in name)
            for rank, place in enumerate(places[: self._settings.provenance.pictures], start=1):
                png = draw_attention(network, films[place].to(self._device), number)
                folder.mkdir(parents=True, exist_ok=True)
                replace_file(folder / f"{plain}-{rank}.png", partial(_write, png))

    def _training_films(self) -> Tensor:
        if self._held is None:
            self._held = load_films(self._training, self._settings.data, self._progress)[0]
        return self._held

    def _validation_films(self) -> tuple[Tensor, NDArray[np.float64]]:
        if self._kept_out is None:
            self._kept_out = load_films(
                self._validation, self._settings.data, self._progress, with_surface=True
            )
        return self._kept_out


class _Draw:
    """Which films are drawn: a patient's label first, then one of its films.

    Args:
        films: of the training patients.
        sampling: see `FilmTraining`.
    """

    def __init__(self, films: Sequence[Film], sampling: str):
        units: dict[tuple[str, int], list[int]] = {}
        for place, film in enumerate(films):
            units.setdefault((film.patient, film.label), []).append(place)
        self._units = [units[key] for key in sorted(units)]
        self._cells = None
        if sampling != "patients":
            cells: dict[tuple[int, str], list[int]] = {}
            for unit, places in enumerate(self._units):
                film = films[places[0]]
                source = film.source if sampling == "sources" else ""
                cells.setdefault((film.label, source), []).append(unit)
            self._cells = [np.array(cells[key]) for key in sorted(cells)]
            of_class = np.array([label for label, _ in sorted(cells)])
            # Within a class every source alike; classes alike, or by their patients.
            within = 1 / np.bincount(of_class)[of_class]
            held = np.bincount(of_class, [len(cell) for cell in self._cells])[of_class]
            weight = within * (held if sampling == "sources" else 1.0)
            self._weights = weight / weight.sum()

    def batches(self, size: int, numbers: np.random.Generator) -> Iterator[Tensor]:
        """Places of films; pass after pass over all patients, or drawn anew each time."""
        while True:
            if self._cells is None:
                order = numbers.permutation(len(self._units))
            else:
                cells = numbers.choice(len(self._cells), size, p=self._weights)
                order = np.array([numbers.choice(self._cells[cell]) for cell in cells])
            films = [self._units[unit][numbers.integers(len(self._units[unit]))] for unit in order]
            yield from torch.split(torch.tensor(films), size)


def load_films(
    films: Sequence[Film], data: Films, progress: CheckProgress, *, with_surface: bool = False
) -> tuple[Tensor, NDArray[np.float64]]:
    """Reads films for the network.

    Args:
        films: to read.
        data: what the job makes of them.
        progress: called before each.
        with_surface: whether to look at what shows how a film was made, too.

    Returns:
        Films, float32 (films, 1, size, size), and their surfaces, (films, 8) or (0, 8).

    Raises:
        UnusableFilm: one that cannot be read.
    """
    made = torch.empty(len(films), 1, data.size, data.size)
    surfaces = np.empty((len(films) if with_surface else 0, len(NAMES)))
    for place, film in enumerate(films):
        progress(place, len(films))
        values = read_pixels(film.path, film.file).values
        made[place, 0] = torch.from_numpy(prepare(values, data))
        if with_surface:
            surfaces[place] = surface(255.0 * values.astype(float))
    return made, surfaces


def _write(content: bytes, beside: Path) -> None:
    beside.write_bytes(content)


def predict_films(
    network: torch.nn.Module,
    films: Sequence[Film],
    settings: ClassificationSettings,
    device: torch.device,
    progress: CheckProgress = lambda done, films: None,
) -> NDArray[np.float64]:
    """The probability of each class for each film, (films, classes).

    Raises:
        UnusableFilm: one that cannot be read.
    """
    return _run(network, load_films(films, settings.data, progress)[0], device)


def _run(
    network: torch.nn.Module,
    films: Tensor,
    device: torch.device,
    pulse: Callable[[], None] = lambda: None,
) -> NDArray[np.float64]:
    network.eval()
    found = []
    with torch.no_grad():
        for batch in torch.split(films, _BATCH):
            pulse()
            found.append(torch.softmax(network(batch.to(device)).double(), 1).cpu())
    return np.asarray(torch.cat(found).numpy())


def _require_folder(name: str, folder: Path, settings: ClassificationSettings) -> None:
    read_films(folder, settings.data)


def _require_match(
    model: ClassificationSettings, other: ClassificationSettings | FilmList, where: str
) -> None:
    """Refuses a model of other classes than a job's.

    Raises:
        Refused: `wrong-labels`.
    """
    if isinstance(other, ClassificationSettings) and list(model.data.classes) != list(
        other.data.classes
    ):
        raise Refused(
            "wrong-labels",
            f"the model's classes are {', '.join(model.data.classes)};"
            f" here they are {', '.join(other.data.classes)}",
            where,
            "use a model of these classes",
        )


def _pool(folders: Mapping[str, Path], out: Path, settings: ClassificationSettings) -> None:
    """Films are linked, not copied; a patient stays on its side of the split."""
    data = settings.data
    source = data.source or "hospital"
    values = [group[0] for group in data.classes.values()]
    # Who lists a film there has said its view, by the table or the header; it is not asked again.
    view = [] if data.source == VIEW else [VIEW]
    rows = []
    with whole_folder(out) as beside:
        (beside / IMAGES).mkdir()
        for name, folder in sorted(folders.items()):
            (beside / IMAGES / name).symlink_to((folder / IMAGES).resolve())
            for films, side in zip(split_films(read_films(folder, data), data), SIDES, strict=True):
                rows += [
                    (
                        f"{name}/{film.file}",
                        f"{name}/{film.patient}",
                        values[film.label],
                        side,
                        film.source or name,
                        *(data.views[0] for _ in view),
                    )
                    for film in films
                ]
        write_table(beside / LABELS, ["file", PATIENT, "label", SPLIT, source, *view], rows)


def _metadata(settings: ClassificationSettings) -> dict[str, Any]:
    data = settings.data
    size: list[Any] = [data.size, data.size]
    described = {
        "type": "image",
        "format": "magnitude",
        "modality": "CR",
        "num_channels": 1,
        "spatial_shape": size,
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": False,
        "channel_def": {"0": "frontal chest X-ray"},
    }
    classes = {str(i): f"logit of {name}" for i, name in enumerate(data.classes)}
    return {
        "packages": {},
        "description": f"Tells {', '.join(data.classes)} apart on frontal chest X-rays.",
        "network_data_format": {
            "inputs": {"image": described},
            "outputs": {
                "pred": {
                    "type": "probabilities",
                    "format": "classes",
                    "num_channels": len(classes),
                    "spatial_shape": [],
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": False,
                    "channel_def": classes,
                }
            },
        },
    }


def _inference(settings: ClassificationSettings) -> dict[str, Any]:
    """Prints the probability of each class for a PNG or JPEG file, with nothing but MONAI.

    MONAI has no way to find the box of the lungs: such a model says so there.
    """
    if settings.data.lungs:
        told = "this model takes the box of the lungs: use consortium predict"
        return {"run": [f"$print({told!r})"]}
    names = list(settings.data.classes)
    return {
        "imports": ["$from safetensors.torch import load_model"],
        "image": "image.png",
        "preprocessing": {
            "_target_": "monai.transforms.Compose",
            "transforms": preprocessing_config(settings.data),
        },
        "film": "$@preprocessing({'image': @image})['image'].as_tensor()[None]",
        "probabilities": "$torch.softmax(@network(@film.to(@device)).detach(), 1)[0].tolist()",
        "run": [
            f"$[print(name, round(p, 6), sep=',') for name, p in zip({names}, @probabilities)]"
        ],
    }


TASK = Task(
    open=Classifying,
    network=network_config,
    initialise=lambda network: None,
    require_folder=_require_folder,
    require_match=_require_match,
    pool=_pool,
    metadata=_metadata,
    inference=_inference,
    take=take_pretrained,
)
