"""Yields augmented batches of a hospital's training cases without end, in a seeded order.

A batch depends on the seed and the cases alone, not on which volumes are in memory: two streams of
the same seed give the same bytes.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from monai.data import CacheDataset
from torch import Tensor

from consortium.core.seeds import derive_seed
from consortium.tasks.segmentation.datalist import Case
from consortium.tasks.segmentation.settings import Data
from consortium.tasks.segmentation.transforms import build_augmentation, build_preprocessing


class Sample(NamedTuple):
    """What a batch takes from one case.

    Attributes:
        volume: index of the case.
        slice: index of the axial slice; 0 in 3-D.
        centred: whether a 3-D patch is centred on a structure.
    """

    volume: int
    slice: int
    centred: bool


class VolumeBatches:
    """Batches of the training cases of one hospital.

    Args:
        cases: at least one case.
        data: settings of the preprocessing and the augmentation.
        progress: called before each volume with the number of volumes done and in total.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        data: Data,
        *,
        progress: Callable[[int, int], None] = lambda done, cases: None,
    ):
        self._data = data
        self.volumes = CacheDataset(
            [{"image": case.image, "label": case.label, "values": case.values} for case in cases],
            build_preprocessing(data, with_label=True),
            cache_rate=data.cache,
            num_workers=1,
            progress=False,
            runtime_cache="threads",  # filled by the loop below, which can be stopped
        )
        self._augment = build_augmentation(data) if data.augment else None
        # Slices with and without a structure, as (volume, slice); slice 0 is a whole 3-D volume.
        self.with_structure: list[tuple[int, int]] = []
        self._without: list[tuple[int, int]] = []
        self._voxels: dict[int, Tensor] = {}  # voxels of any structure in each 3-D volume
        for index in range(len(self.volumes)):
            progress(index, len(self.volumes))
            label = self.volumes[index]["label"]
            if data.spatial_dims == 2:
                labelled = label.flatten(0, -2).any(dim=0)
                for z, positive in enumerate(labelled.tolist()):
                    (self.with_structure if positive else self._without).append((index, z))
            else:
                voxels = _plain(label).any(dim=0).nonzero().to(torch.int16)
                self._voxels[index] = voxels
                (self.with_structure if len(voxels) else self._without).append((index, 0))

    @property
    def samples(self) -> int:
        """Number of slices (volumes in 3-D) in one pass over the patients."""
        return len(self.with_structure) + len(self._without)

    def batches(self, batch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields batches without end.

        Slices (or volumes) with a structure and without are each visited in a new random order,
        all of them before any repeats. `tumour_fraction` is the share of the former in a batch.

        Args:
            batch: number of samples in a batch.
            seed: seed of all randomness in the stream.

        Yields:
            Images, float32 of shape (batch, channels, *size), and masks, float32 of shape
            (batch, structures, *size).
        """
        if self._augment is not None:
            self._augment.set_random_state(seed=derive_seed(seed, "augment"))
        patches = np.random.default_rng(derive_seed(seed, "patches"))
        for drawn in self.draw(batch, seed):
            samples = []
            for index, z, centred in drawn:
                volume = self.volumes[index]
                if self._data.spatial_dims == 2:
                    sample = {key: _plain(volume[key])[..., z] for key in ("image", "label")}
                else:
                    centre = None
                    if centred:
                        voxels = self._voxels[index]
                        centre = voxels[patches.integers(len(voxels))].tolist()
                    whole = {key: _plain(volume[key]) for key in ("image", "label")}
                    sample = _cut(whole, self._data.size, centre, patches)
                samples.append(self._augment(sample) if self._augment is not None else sample)
            yield (
                torch.stack([_plain(sample["image"]) for sample in samples]).float(),
                torch.stack([_plain(sample["label"]) for sample in samples]).float(),
            )

    def draw(self, batch: int, seed: int) -> Iterator[list[Sample]]:
        """Yields the samples of the batches that `batches` yields for the same arguments."""
        rng = np.random.default_rng(seed)
        positive = _visit(self.with_structure, rng) if self.with_structure else None
        # In 3-D a patch that is not centred on a structure comes from any volume.
        rest = (
            self._without if self._data.spatial_dims == 2 else self._without + self.with_structure
        )
        negative = _visit(rest, rng) if rest else positive
        positive = positive or negative
        assert positive is not None
        assert negative is not None
        fraction = self._data.tumour_fraction
        while True:
            samples = []
            for position in range(batch):
                on_tumour = bool(self.with_structure) and position < round(fraction * batch)
                samples.append(Sample(*next(positive if on_tumour else negative), on_tumour))
            yield samples


def _cut(
    volume: dict[str, Tensor],
    size: Sequence[int],
    centre: Sequence[int] | None,
    rng: np.random.Generator,
) -> dict[str, Tensor]:
    """Cuts a patch at random, or centred on a voxel as closely as the volume's edges allow.

    A volume smaller than the patch is padded with zeros on both sides, as in the sliding inference.

    Args:
        volume: "image" and "label", each (channels, X, Y, Z).
        size: size of the patch.
        centre: central voxel, or None for a random position.
        rng: source of the random position.
    """
    shape = volume["image"].shape[1:]
    padding = [max(0, length - given) for length, given in zip(size, shape, strict=True)]
    before = [total // 2 for total in padding]
    window = [slice(None)]
    for axis, length in enumerate(size):
        room = shape[axis] + padding[axis] - length
        if centre is None:
            start = int(rng.integers(room + 1))
        else:
            start = min(max(centre[axis] + before[axis] - length // 2, 0), room)
        window.append(slice(start, start + length))
    margins = [
        margin
        for first, total in zip(before, padding, strict=True)
        for margin in (total - first, first)
    ][::-1]
    if any(padding):
        volume = {key: torch.nn.functional.pad(part, margins) for key, part in volume.items()}
    return {key: part[tuple(window)] for key, part in volume.items()}


def _visit(items: list[tuple[int, int]], rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    while True:
        for position in rng.permutation(len(items)):
            yield items[position]


def _plain(tensor: Tensor) -> Tensor:
    """Strips MONAI's metadata, whose bookkeeping costs more than the work on a small sample."""
    return tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor
