"""Classification: classes of frontal chest X-rays are told apart.

A patient counts once for each of its labels, however many X-rays it has: in the weight of the
hospital, in what is drawn for training, and in the scores. Beside the scores a hospital tells, once
a run, what the confounding probe needs: moments of what the model says of its held-out patients
(`consortium.confounding`), and draws for itself where on an X-ray the model looks.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consortium.confounding.moments import moments, project
from consortium.confounding.probe_statistics import GroupMoments, ProbeStatistics
from consortium.core.errors import Refused
from consortium.core.files import replace_file, whole_folder
from consortium.core.site_policy import Site
from consortium.protocol.metrics import Score
from consortium.tasks.base import CheckProgress, LocalTask, Task
from consortium.tasks.classification.attention import draw_attention
from consortium.tasks.classification.checks import check_radiographs
from consortium.tasks.classification.dataset import (
    IMAGES,
    LABELS,
    VIEW,
    Radiograph,
    read_radiographs,
    split_radiographs,
)
from consortium.tasks.classification.evaluate import evaluate_radiographs
from consortium.tasks.classification.loading import load_radiographs, run_network
from consortium.tasks.classification.networks import (
    network_config,
    pooled_features,
    take_pretrained,
)
from consortium.tasks.classification.predict import predict_radiographs
from consortium.tasks.classification.scores import classify_radiographs
from consortium.tasks.classification.settings import ClassificationSettings
from consortium.tasks.classification.transforms import augment, preprocessing_config
from consortium.tasks.tables import PATIENT, SIDES, SPLIT, read_table, write_table

PICTURES = "attention"
"""Folder of a hospital's own, with X-rays and where the model looks."""

_ABSENT = -1e4  # logarithm of the share of a class that a hospital has no case of


class ClassificationTask(LocalTask):
    """The X-rays of one hospital; see `LocalTask`.

    Args:
        site: the hospital's own choices.
        settings: the job's.
        device: where to train.
        progress: called before each X-ray that is read.
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
        found = read_radiographs(site.data, settings.data)
        self._training, self._validation = split_radiographs(found, settings.data)
        self._units = sorted(
            {(radiograph.patient, radiograph.label) for radiograph in self._training}
        )
        self.cases = len(self._units)
        self.patients = len({radiograph.patient for radiograph in self._training})
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
        """Radiographs and their classes; of each patient that is drawn one X-ray, at random."""
        radiographs = self._training_radiographs()
        numbers = np.random.default_rng(seed)
        changes = torch.Generator().manual_seed(seed)
        labels = torch.tensor([radiograph.label for radiograph in self._training])
        draw = _Draw(self._training, self._settings.training.sampling)
        for chosen in draw.batches(size, numbers):
            batch = radiographs[chosen]
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
    ) -> tuple[float, Score | None]:
        """The figures of each class on the validation patients.

        Their mean AUROC is what a model is chosen by; where there is none, accuracy.
        """
        if not self._validation:
            return 0.0, None
        radiographs, _ = self._validation_radiographs()
        progress(0, len(radiographs))
        probabilities = run_network(network, radiographs, self._device, pulse)
        accuracy, score = classify_radiographs(
            probabilities,
            np.array([radiograph.label for radiograph in self._validation]),
            [radiograph.patient for radiograph in self._validation],
            self._classes,
            self._site.smallest_group,
            specificity=self._settings.data.specificity,
        )
        value = self._settings.scored.headline(score.figures)
        return (accuracy if value is None else value), score

    def probe_statistics(self, network: torch.nn.Module) -> ProbeStatistics:
        """What the confounding probe needs; and pictures for the hospital's own people."""
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
            return ProbeStatistics(shares=shares)
        radiographs, seen = self._validation_radiographs()
        with pooled_features(network) as features:
            probabilities = run_network(network, radiographs, self._device)
        odds = np.log(probabilities.clip(1e-12)) - np.log((1 - probabilities).clip(1e-12))
        values = torch.cat(features).double().cpu().numpy()
        chosen, seed = self._settings.confounding, self._settings.seed
        self._draw_pictures(network, radiographs)
        return ProbeStatistics(
            shares=shares,
            scores=self._groups(odds, smallest),
            features=self._groups(project(values, chosen.dimensions, seed), smallest),
            acquisition=self._groups(project(seen, chosen.dimensions, seed), smallest),
        )

    def _groups(self, values: NDArray[np.float64], smallest: int) -> dict[str, GroupMoments]:
        """Moments by label, of groups with more patients than values have dimensions."""
        found = {}
        labels = np.array([radiograph.label for radiograph in self._validation])
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

    def _draw_pictures(self, network: torch.nn.Module, radiographs: Tensor) -> None:
        """The first validation X-rays of each class, with where the model looks for that class."""
        folder = self._site.state / PICTURES
        for number, name in enumerate(self._classes):
            places = [
                p for p, radiograph in enumerate(self._validation) if radiograph.label == number
            ]
            plain = "".join(char if char.isalnum() else "-" for char in name)
            for rank, place in enumerate(places[: self._settings.confounding.pictures], start=1):
                png = draw_attention(network, radiographs[place].to(self._device), number)
                folder.mkdir(parents=True, exist_ok=True)
                replace_file(folder / f"{plain}-{rank}.png", partial(_write, png))

    def _training_radiographs(self) -> Tensor:
        if self._held is None:
            self._held = load_radiographs(self._training, self._settings.data, self._progress)[0]
        return self._held

    def _validation_radiographs(self) -> tuple[Tensor, NDArray[np.float64]]:
        if self._kept_out is None:
            self._kept_out = load_radiographs(
                self._validation, self._settings.data, self._progress, with_acquisition=True
            )
        return self._kept_out


class _Draw:
    """Which X-rays are drawn: a patient's label first, then one of its X-rays.

    Args:
        radiographs: of the training patients.
        sampling: see `RadiographTraining`.
    """

    def __init__(self, radiographs: Sequence[Radiograph], sampling: str):
        units: dict[tuple[str, int], list[int]] = {}
        for place, radiograph in enumerate(radiographs):
            units.setdefault((radiograph.patient, radiograph.label), []).append(place)
        self._units = [units[key] for key in sorted(units)]
        self._cells = None
        if sampling != "patients":
            cells: dict[tuple[int, str], list[int]] = {}
            for unit, places in enumerate(self._units):
                radiograph = radiographs[places[0]]
                source = radiograph.source if sampling == "sources" else ""
                cells.setdefault((radiograph.label, source), []).append(unit)
            self._cells = [np.array(cells[key]) for key in sorted(cells)]
            of_class = np.array([label for label, _ in sorted(cells)])
            # Within a class every source alike; classes alike, or by their patients.
            within = 1 / np.bincount(of_class)[of_class]
            held = np.bincount(of_class, [len(cell) for cell in self._cells])[of_class]
            weight = within * (held if sampling == "sources" else 1.0)
            self._weights = weight / weight.sum()

    def batches(self, size: int, numbers: np.random.Generator) -> Iterator[Tensor]:
        """Places of X-rays; pass after pass over all patients, or drawn anew each time."""
        while True:
            if self._cells is None:
                order = numbers.permutation(len(self._units))
            else:
                cells = numbers.choice(len(self._cells), size, p=self._weights)
                order = np.array([numbers.choice(self._cells[cell]) for cell in cells])
            radiographs = [
                self._units[unit][numbers.integers(len(self._units[unit]))] for unit in order
            ]
            yield from torch.split(torch.tensor(radiographs), size)


def _write(content: bytes, beside: Path) -> None:
    beside.write_bytes(content)


def _require_folder(name: str, folder: Path, settings: ClassificationSettings) -> None:
    read_radiographs(folder, settings.data)


def _require_match(
    model: ClassificationSettings, other: ClassificationSettings, where: str
) -> None:
    """Refuses a model of other classes than a job's.

    Raises:
        Refused: `wrong-labels`.
    """
    if list(model.data.classes) != list(other.data.classes):
        raise Refused(
            "wrong-labels",
            f"the model's classes are {', '.join(model.data.classes)};"
            f" here they are {', '.join(other.data.classes)}",
            where,
            "use a model of these classes",
        )


def _pool(folders: Mapping[str, Path], out: Path, settings: ClassificationSettings) -> None:
    """Radiographs are linked, not copied; a patient stays on its side of the split."""
    data = settings.data
    source = data.source or "hospital"
    values = [group[0] for group in data.classes.values()]
    # Who lists an X-ray there has said its view, by the table or the header; it is not asked again.
    view = [] if data.source == VIEW else [VIEW]
    rows = []
    with whole_folder(out) as beside:
        (beside / IMAGES).mkdir()
        for name, folder in sorted(folders.items()):
            (beside / IMAGES / name).symlink_to((folder / IMAGES).resolve())
            for radiographs, side in zip(
                split_radiographs(read_radiographs(folder, data), data), SIDES, strict=True
            ):
                rows += [
                    (
                        f"{name}/{radiograph.file}",
                        f"{name}/{radiograph.patient}",
                        values[radiograph.label],
                        side,
                        radiograph.source or name,
                        *(data.views[0] for _ in view),
                    )
                    for radiograph in radiographs
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
        "xray": "$@preprocessing({'image': @image})['image'].as_tensor()[None]",
        "probabilities": "$torch.softmax(@network(@xray.to(@device)).detach(), 1)[0].tolist()",
        "run": [
            f"$[print(name, round(p, 6), sep=',') for name, p in zip({names}, @probabilities)]"
        ],
    }


def _count(folder: Path) -> tuple[int, int]:
    patients = [row.get(PATIENT, "") for row in read_table(folder, LABELS).rows]
    return len(patients), len(set(patients))


TASK = Task(
    open=ClassificationTask,
    network=network_config,
    initialise=lambda network: None,
    require_folder=_require_folder,
    require_match=_require_match,
    check=check_radiographs,
    count=_count,
    accepts=lambda path: path.suffix.lower() != ".csv",
    predict=predict_radiographs,
    evaluate=evaluate_radiographs,
    pool=_pool,
    metadata=_metadata,
    inference=_inference,
    adapt_weights=take_pretrained,
)
