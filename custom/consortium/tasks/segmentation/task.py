"""The segmentation task: outlines structures on scans, by slice or by patch.

The loss is Dice plus cross-entropy. The score is the Dice of each structure on the grid of the
original file, averaged over patients.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.losses import DiceLoss
from numpy.typing import NDArray
from torch import Tensor

from consortium.core.errors import Refused
from consortium.core.files import whole_folder, write_json
from consortium.core.site_policy import Site
from consortium.tasks.base import CheckProgress, LocalTask, Task
from consortium.tasks.columns import Proposal
from consortium.tasks.measurement import Measured, ScoredGroup
from consortium.tasks.segmentation.batches import VolumeBatches
from consortium.tasks.segmentation.checks import check_folder
from consortium.tasks.segmentation.datalist import read_datalist, split_cases
from consortium.tasks.segmentation.evaluate import evaluate_scans
from consortium.tasks.segmentation.inference import (
    THRESHOLD,
    PreparedCase,
    exclusive,
    inferer_config,
    load_case,
    predict_case,
)
from consortium.tasks.segmentation.match import require_match
from consortium.tasks.segmentation.networks import initialise, network_config
from consortium.tasks.segmentation.predict import predict_scan
from consortium.tasks.segmentation.scores import group_score, score_case
from consortium.tasks.segmentation.settings import SegmentationSettings
from consortium.tasks.segmentation.transforms import preprocessing_config
from consortium.tasks.split import SiteSplit
from consortium.tasks.statements import settle_validation


class SegmentationTask(LocalTask):
    """The segmentation task at one hospital; see `LocalTask`.

    Args:
        site: the hospital's own settings.
        settings: the job's settings.
        device: device to train on.
        progress: called before each scan that is read.
    """

    def __init__(
        self,
        site: Site,
        settings: SegmentationSettings,
        device: torch.device,
        progress: CheckProgress,
    ):
        self._site, self._settings, self._device = site, settings, device
        self._progress = progress
        self._split = split_cases(
            read_datalist(site.data),
            settings.data.validation_fraction,
            SiteSplit(site, settings.task),
        )
        validation = {case.patient for case in self._split.validation}
        self._scored, self._withheld = settle_validation(site, settings.task, validation)
        self.cases = len(self._split.training)
        self.patients = len({case.patient for case in self._split.training})
        # Convolutions are faster with the channels last.
        flat = settings.data.spatial_dims == 2
        self.format = torch.channels_last if flat else torch.channels_last_3d
        self._dice = DiceLoss(sigmoid=True, batch=True)
        self._batches: VolumeBatches | None = None
        self._validation: list[tuple[str, PreparedCase]] | None = None

    @property
    def samples(self) -> int:
        """Number of slices, or of volumes in 3-D."""
        return self._training_batches().samples

    def batches(self, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and masks; see `VolumeBatches`."""
        return self._training_batches().batches(size, seed)

    def patients_of_batches(self, size: int, seed: int) -> Iterator[NDArray[np.int64]]:
        """See `LocalTask`; a patient may have several scans."""
        names = [case.patient for case in self._split.training]
        patients = np.unique(names, return_inverse=True)[1]
        for samples in self._training_batches().draw(size, seed):
            yield patients[[sample.volume for sample in samples]]

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Dice of the batch plus cross-entropy."""
        loss: Tensor = self._dice(logits, targets)
        return loss + torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)

    def measure(
        self, network: torch.nn.Module, progress: CheckProgress, pulse: Callable[[], None]
    ) -> Measured:
        """Scores a network by the Dice of the validation patients; see `LocalTask.measure`."""
        cases = self._validation_cases()
        if not cases:
            return Measured(0.0, None)
        names = list(self._settings.data.labels)
        dice_of: dict[str, list[dict[str, float]]] = {}
        for done, (patient, case) in enumerate(cases):
            progress(done, len(cases))
            predicted = predict_case(network, case, self._settings, self._device, pulse)
            assert case.label_original is not None
            scores = score_case(
                predicted, case.label_original, case.spacing_original, names, distances=False
            )
            dice_of.setdefault(patient, []).append(scores["dice"])
        patients = list(dice_of.values())
        groups = (
            ScoredGroup(
                subject="Dice",
                figures=(name,),
                values=np.array([np.mean([scan[name] for scan in scans]) for scans in patients]),
            )
            for name in names
        )
        value, score = group_score(patients, self._site.smallest_group)
        return Measured(value, self._withheld or score, tuple(dice_of), tuple(groups))

    def _training_batches(self) -> VolumeBatches:
        if self._batches is None:
            data = self._settings.data
            self._batches = VolumeBatches(self._split.training, data, progress=self._progress)
        return self._batches

    def _validation_cases(self) -> list[tuple[str, PreparedCase]]:
        if self._validation is None:
            loaded: list[tuple[str, PreparedCase]] = []
            for case in self._split.validation:
                if case.patient not in self._scored:
                    continue
                self._progress(len(loaded), len(self._split.validation))
                prepared = load_case(self._settings, case.image, case.label, case.values)
                loaded.append((case.patient, prepared))
            self._validation = loaded
        return self._validation


def _require_folder(name: str, folder: Path, settings: SegmentationSettings) -> None:
    channels = read_datalist(folder).channels
    expected = settings.data.channels
    if [channel.lower() for channel in channels] != [channel.lower() for channel in expected]:
        raise Refused(
            "wrong-channels",
            f"hospital {name} has the channels {', '.join(channels)}"
            f" and the job takes {', '.join(expected)}",
            str(folder / "dataset.json"),
            "correct modality in that file, or set data.channels",
        )


def _pool(folders: Mapping[str, Path], out: Path, settings: SegmentationSettings) -> None:
    """Writes a folder with all hospitals' cases; scans are linked, not copied."""
    lists = {name: read_datalist(folder) for name, folder in folders.items()}
    first = next(iter(lists.values()))
    entries: dict[str, list[dict[str, str | list[str]]]] = {"training": [], "validation": []}
    with whole_folder(out) as partial:
        for name, datalist in sorted(lists.items()):
            (partial / name).symlink_to(datalist.folder.resolve(), target_is_directory=True)
            split = split_cases(datalist, settings.data.validation_fraction)
            for side, cases in (("training", split.training), ("validation", split.validation)):
                entries[side] += [
                    {
                        "patient": f"{name}/{case.patient}",
                        "image": _inside(name, datalist.folder, case.image),
                        "label": _inside(name, datalist.folder, case.label),
                    }
                    for case in cases
                ]
        write_json(
            partial / "dataset.json",
            {
                "modality": {str(index): channel for index, channel in enumerate(first.channels)},
                "labels": {str(value): label for value, label in first.labels.items()},
                **entries,
            },
        )


def _inside(name: str, folder: Path, path: Path | tuple[Path, ...]) -> str | list[str]:
    if isinstance(path, tuple):
        return [f"{name}/{part.relative_to(folder)}" for part in path]
    return f"{name}/{path.relative_to(folder)}"


def _metadata(settings: SegmentationSettings) -> dict[str, Any]:
    data = settings.data
    size: list[Any] = list(data.size)
    return {
        "packages": {"nibabel": nibabel.__version__},
        "description": f"Segments {', '.join(data.labels)} from {', '.join(data.channels)}.",
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "num_channels": len(data.channels),
                    "spatial_shape": size,
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": data.spatial_dims == 3,
                    "channel_def": {str(i): name for i, name in enumerate(data.channels)},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "segmentation",
                    "num_channels": len(data.labels),
                    "spatial_shape": size,
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": data.spatial_dims == 3,
                    "channel_def": {str(i): f"logit of {n}" for i, n in enumerate(data.labels)},
                }
            },
        },
    }


def _inference(settings: SegmentationSettings) -> dict[str, Any]:
    """The MONAI bundle configuration that writes the mask of one image with MONAI alone.

    Run it as `python -m monai.bundle run --config_file configs/inference.json --bundle_root . \
    --image scan.nii.gz --output mask.nii.gz` (that command line needs the package `fire`), or as
    `monai.bundle.run(config_file=..., bundle_root=..., image=..., output=...)`.
    """
    mask_values = [values[0] for values in settings.data.labels.values()]
    order = f"torch.arange(1, {len(mask_values) + 1}).reshape(-1, 1, 1, 1)"
    if exclusive(settings.data):
        index = f"(p.argmax(0) + 1) * (p > {THRESHOLD}).any(0)"
    else:
        index = f"((p > {THRESHOLD}) * {order}).amax(0)"
    return {
        "imports": ["$import nibabel", "$from safetensors.torch import load_model"],
        "image": "image.nii.gz",
        "output": "mask.nii.gz",
        "preprocessing": {
            "_target_": "monai.transforms.Compose",
            "transforms": preprocessing_config(settings.data),
        },
        "dataset": {
            "_target_": "monai.data.Dataset",
            "data": [{"image": "@image"}],
            "transform": "@preprocessing",
        },
        "dataloader": {
            "_target_": "monai.data.DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "collate_fn": "$monai.data.utils.no_collation",
        },
        "inferer": inferer_config(settings.data),
        "predict": "$torch.no_grad()(lambda image: monai.data.MetaTensor(torch.sigmoid("
        "@inferer(image.as_tensor()[None].to(@device), @network)[0]).cpu()))",
        "postprocessing": {
            "_target_": "monai.transforms.Compose",
            "transforms": [
                {
                    "_target_": "monai.transforms.Invertd",
                    "keys": "probability",
                    "transform": "@preprocessing",
                    "orig_keys": "image",
                    "nearest_interp": False,
                },
                {
                    "_target_": "monai.transforms.Lambdad",
                    "keys": "probability",
                    "func": f"$lambda p: torch.tensor({[0, *mask_values]}, dtype=torch.uint8)"
                    f"[({index}).as_tensor()]",
                    "track_meta": False,
                },
            ],
        },
        "save": "$lambda item: nibabel.save(nibabel.Nifti1Image(item['probability'].numpy(), "
        "item['image'].meta['original_affine']), @output)",
        "run": [
            "$[@save(@postprocessing({**item, 'probability': @predict(item['image'])})) "
            "for items in @dataloader for item in items]"
        ],
    }


def _count(folder: Path) -> tuple[int, int]:
    patients = [case.patient for case in read_datalist(folder).cases]
    return len(patients), len(set(patients))


TASK = Task(
    open=SegmentationTask,
    network=network_config,
    initialise=initialise,
    adapt_weights=lambda state, fresh: state,
    require_folder=_require_folder,
    require_match=require_match,
    bound=lambda settings, columns: settings,
    propose=lambda folder, settings: Proposal(),
    check=check_folder,
    count=_count,
    accepts=lambda path: path.suffix.lower() != ".csv",
    predict=predict_scan,
    evaluate=evaluate_scans,
    pool=_pool,
    metadata=_metadata,
    inference=_inference,
)
