"""The classification task: a network assigns frontal chest X-rays to classes.

A patient counts once for each of its labels, however many X-rays it has: in the hospital's weight,
in the sampling for training, and in the scores. Once a run a hospital also reports what the
confounding probe needs: moments of the model's outputs on its validation patients
(`consortium.confounding`). It draws, for its own people only, where on an X-ray the model looks.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
from consortium.core.seeds import derive_seed
from consortium.core.site_policy import Site
from consortium.tasks.base import CheckProgress, LocalTask, Task
from consortium.tasks.classification.attention import draw_attention
from consortium.tasks.classification.checks import check_radiographs
from consortium.tasks.classification.columns import bound_columns, propose_labels
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
from consortium.tasks.measurement import Measured
from consortium.tasks.split import SiteSplit
from consortium.tasks.statements import Statements, settle_validation
from consortium.tasks.tables import PATIENT, SIDES, SPLIT, read_table, write_table

PICTURES = "attention"
"""A folder that stays at the hospital: X-rays, and where the model looks on them."""

_ABSENT = -1e4  # logarithm of the share of a class without a case at the hospital


class ClassificationTask(LocalTask):
    """One hospital's X-rays; see `LocalTask`.

    Args:
        site: the hospital's own choices.
        settings: the job's settings.
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
        listing = read_radiographs(site.data, settings.data)
        self._training, validation = split_radiographs(
            listing, settings.data, SiteSplit(site, settings.task)
        )
        settled, self._withheld = settle_validation(
            site,
            settings.task,
            {radiograph.patient for radiograph in validation},
            [_with_label(validation, number) for number in range(len(self._classes))],
        )
        self._validation = tuple(
            radiograph for radiograph in validation if radiograph.patient in settled
        )
        self.units = sorted(
            {(radiograph.patient, radiograph.label) for radiograph in self._training}
        )
        self.cases = len(self.units)
        self.patients = len({radiograph.patient for radiograph in self._training})
        counts = np.bincount([label for _, label in self.units], minlength=len(self._classes))
        self.shares = counts / max(1, counts.sum())
        self._training_cache: Tensor | None = None
        self._validation_cache: tuple[Tensor, NDArray[np.float64]] | None = None

    @property
    def _classes(self) -> list[str]:
        return list(self._settings.data.classes)

    @property
    def samples(self) -> int:
        """The number of training patients, each counted once for each of its labels."""
        return self.cases

    def batches(self, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields X-rays and their classes; one X-ray at random for each patient that is drawn."""
        radiographs = self._training_radiographs()
        augmentation_generator = torch.Generator().manual_seed(derive_seed(seed, "augment"))
        labels = torch.tensor([radiograph.label for radiograph in self._training])
        for chosen in self._draw(size, seed):
            batch = radiographs[chosen]
            if self._settings.data.augment:
                batch = augment(batch, augmentation_generator)
            yield batch, labels[chosen]

    def patients_of_batches(self, size: int, seed: int) -> Iterator[NDArray[np.int64]]:
        """See `LocalTask`."""
        names = [radiograph.patient for radiograph in self._training]
        patients = np.unique(names, return_inverse=True)[1]
        for chosen in self._draw(size, seed):
            yield patients[chosen.numpy()]

    def _draw(self, size: int, seed: int) -> Iterator[Tensor]:
        """Yields the indices of the X-rays of each batch."""
        sampler = RadiographSampler(self._training, self._settings.training.sampling)
        return sampler.batches(size, np.random.default_rng(seed))

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy in the form of `training.loss`."""
        kind = self._settings.training.loss
        shares = torch.as_tensor(self.shares, dtype=logits.dtype, device=logits.device)
        if kind == "adjusted":
            logits = logits + shares.log().clamp(min=_ABSENT)
        weight = None
        if kind == "weighted":
            weight = 1 / (shares.clamp(min=1e-6) * (shares > 0).sum())
        return torch.nn.functional.cross_entropy(logits, targets, weight)

    def measure(
        self, network: torch.nn.Module, progress: CheckProgress, pulse: Callable[[], None]
    ) -> Measured:
        """Scores a network on the validation patients, by class.

        Models are selected by the mean AUROC over the classes; without an AUROC, by accuracy.
        """
        if not self._validation:
            return Measured(0.0, None)
        radiographs, _ = self._validation_radiographs()
        progress(0, len(radiographs))
        probabilities = run_network(network, radiographs, self._device, pulse)
        accuracy, score, patients, groups = classify_radiographs(
            probabilities,
            np.array([radiograph.label for radiograph in self._validation]),
            [radiograph.patient for radiograph in self._validation],
            self._classes,
            self._site.smallest_group,
            specificity=self._settings.data.specificity,
        )
        value = self._settings.scored.headline(score.figures)
        value = accuracy if value is None else value
        return Measured(value, self._withheld or score, patients, groups)

    def probe_statistics(self, network: torch.nn.Module) -> ProbeStatistics:
        """Computes what the confounding probe needs; draws pictures for the hospital's people."""
        smallest, least = self._site.smallest_group, max(2, self._site.smallest_group)
        counts = np.bincount([label for _, label in self.units], minlength=len(self._classes))
        stated = [
            count >= least and self._may_state("training", _with_label(self._training, number))
            for number, count in enumerate(counts)
        ]
        # The counts are scaled to the hospital's weight, which everybody knows: otherwise a
        # withheld class would be the difference between the weight and the others.
        scale = counts.sum() / max(1, counts[stated].sum())
        shares = {
            name: round(count * scale)
            for name, count, chosen in zip(self._classes, counts, stated, strict=True)
            if chosen
        }
        if not self._validation:
            return ProbeStatistics(shares=shares)
        radiographs, acquisitions = self._validation_radiographs()
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
            acquisition=self._groups(project(acquisitions, chosen.dimensions, seed), smallest),
        )

    def _groups(self, values: NDArray[np.float64], smallest: int) -> dict[str, GroupMoments]:
        """Moments by label, for groups with more patients than the values have dimensions."""
        groups = {}
        labels = np.array([radiograph.label for radiograph in self._validation])
        for number, name in enumerate(self._classes):
            indices = np.flatnonzero(labels == number)
            patients = [self._validation[index].patient for index in indices]
            group = moments(values[indices], patients, max(smallest, values.shape[1] + 1))
            if group is not None and self._may_state("validation", patients):
                groups[name] = GroupMoments.of(group)
        return groups

    def _may_state(self, side: str, members: Collection[str]) -> bool:
        """Whether the number of a class's patients, and more about them, may leave."""
        statements = Statements(self._site, self._settings.task)
        return statements.allows(side, {"class": dict.fromkeys(members, "")})

    def _draw_pictures(self, network: torch.nn.Module, radiographs: Tensor) -> None:
        """Draws, for each class, its first validation X-rays and where the model looks."""
        folder = self._site.state / PICTURES
        for number, name in enumerate(self._classes):
            indices = [
                i for i, radiograph in enumerate(self._validation) if radiograph.label == number
            ]
            stem = "".join(char if char.isalnum() else "-" for char in name)
            for rank, index in enumerate(indices[: self._settings.confounding.pictures], start=1):
                png = draw_attention(network, radiographs[index].to(self._device), number)
                folder.mkdir(parents=True, exist_ok=True)
                replace_file(folder / f"{stem}-{rank}.png", partial(_write, png))

    def _training_radiographs(self) -> Tensor:
        if self._training_cache is None:
            self._training_cache, _ = load_radiographs(
                self._training, self._settings.data, self._progress
            )
        return self._training_cache

    def _validation_radiographs(self) -> tuple[Tensor, NDArray[np.float64]]:
        if self._validation_cache is None:
            self._validation_cache = load_radiographs(
                self._validation, self._settings.data, self._progress, with_acquisition=True
            )
        return self._validation_cache


class RadiographSampler:
    """Draws X-rays for training: first a patient and label, then one of its X-rays.

    Args:
        radiographs: X-rays of the training patients.
        sampling: see `RadiographTraining`.
    """

    def __init__(self, radiographs: Sequence[Radiograph], sampling: str):
        units: dict[tuple[str, int], list[int]] = {}
        for index, radiograph in enumerate(radiographs):
            units.setdefault((radiograph.patient, radiograph.label), []).append(index)
        self.units = [units[key] for key in sorted(units)]
        self._cells = None
        if sampling != "patients":
            cells: dict[tuple[int, str], list[int]] = {}
            for unit, indices in enumerate(self.units):
                radiograph = radiographs[indices[0]]
                source = radiograph.source if sampling == "sources" else ""
                cells.setdefault((radiograph.label, source), []).append(unit)
            self._cells = [np.array(cells[key]) for key in sorted(cells)]
            classes = np.array([label for label, _ in sorted(cells)])
            # Sources have equal weight within a class; classes too, or by their patients.
            within = 1 / np.bincount(classes)[classes]
            patients = np.bincount(classes, [len(cell) for cell in self._cells])[classes]
            weight = within * (patients if sampling == "sources" else 1.0)
            self._weights = weight / weight.sum()

    def batches(self, size: int, generator: np.random.Generator) -> Iterator[Tensor]:
        """Yields indices of X-rays, in passes over all patients or by independent draws."""
        while True:
            if self._cells is None:
                order = generator.permutation(len(self.units))
            else:
                cells = generator.choice(len(self._cells), size, p=self._weights)
                order = np.array([generator.choice(self._cells[cell]) for cell in cells])
            radiographs = [
                self.units[unit][generator.integers(len(self.units[unit]))] for unit in order
            ]
            yield from torch.split(torch.tensor(radiographs), size)


def _with_label(radiographs: Sequence[Radiograph], label: int) -> set[str]:
    """The patients with an X-ray of a label."""
    return {radiograph.patient for radiograph in radiographs if radiograph.label == label}


def _write(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def _require_folder(name: str, folder: Path, settings: ClassificationSettings) -> None:
    read_radiographs(folder, settings.data)


def _require_match(
    model: ClassificationSettings, other: ClassificationSettings, source: str
) -> None:
    """Refuses a model whose classes are not the job's.

    Raises:
        Refused: `wrong-labels`.
    """
    if list(model.data.classes) != list(other.data.classes):
        raise Refused(
            "wrong-labels",
            f"the model's classes are {', '.join(model.data.classes)};"
            f" here they are {', '.join(other.data.classes)}",
            source,
            "use a model of these classes",
        )


def _pool(folders: Mapping[str, Path], out: Path, settings: ClassificationSettings) -> None:
    """Pools X-rays by links, without copies, and keeps each patient's side of the split."""
    data = settings.data
    source = data.source or "hospital"
    values = [group[0] for group in data.classes.values()]
    # The view was checked at the hospital, by the table or the header; it is not read again.
    view = [] if data.source == VIEW else [VIEW]
    rows = []
    with whole_folder(out) as partial_folder:
        (partial_folder / IMAGES).mkdir()
        for name, folder in sorted(folders.items()):
            (partial_folder / IMAGES / name).symlink_to((folder / IMAGES).resolve())
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
        columns = ["file", PATIENT, "label", SPLIT, source, *view]
        write_table(partial_folder / LABELS, columns, rows)


def _metadata(settings: ClassificationSettings) -> dict[str, Any]:
    data = settings.data
    size: list[Any] = [data.size, data.size]
    image = {
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
        "description": f"Classifies frontal chest X-rays into {', '.join(data.classes)}.",
        "network_data_format": {
            "inputs": {"image": image},
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
    """Prints the probability of each class for a PNG or JPEG file, with MONAI alone.

    MONAI cannot find the box of the lungs. For a model that needs it, prints what to use instead.
    """
    if settings.data.lungs:
        message = "this model takes the box of the lungs: use consortium predict"
        return {"run": [f"$print({message!r})"]}
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
    bound=bound_columns,
    propose=propose_labels,
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
