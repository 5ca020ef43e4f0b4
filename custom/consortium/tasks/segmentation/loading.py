"""Loads a case's files as tensors: NIfTI, DICOM series and DICOM segmentations.

NIfTI goes through MONAI's own reader, so that a model's bundle, which has no other reader, gets the
same tensor. A DICOM series gives the same tensor as the scan's NIfTI file, except for the order and
direction of the axes, which the affine records and the preprocessing undoes.
"""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import ImageReader, MetaTensor, NibabelReader
from monai.transforms import EnsureChannelFirst, MapTransform
from monai.transforms.io.array import switch_endianness
from monai.utils.enums import MetaKeys, SpaceKeys
from numpy.typing import NDArray

from consortium.imaging.grids import align_to_grid, same_grid
from consortium.imaging.volumes import is_dicom


class SeriesReader(ImageReader):  # type: ignore[misc]
    """MONAI's interface to `consortium.imaging.dicom`.

    MONAI's own PydicomReader orders slices by number, which need not be the order of position, and
    stacks all files of a folder: gaps, copies and other series go unnoticed.
    """

    def verify_suffix(self, filename: Any) -> bool:
        """Whether a path is a series."""
        return not isinstance(filename, list) and is_dicom(Path(str(filename)))

    def read(self, data: Any, **kwargs: Any) -> Any:
        """Reads the headers of a series.

        Raises:
            UnusableSeries: see `consortium.imaging.dicom.open_series`.
        """
        from consortium.imaging.dicom import open_series

        [path] = [data] if isinstance(data, (str, Path)) else data
        return open_series(Path(path), Path(path).name)

    def get_data(self, img: Any) -> tuple[NDArray[Any], dict[str, Any]]:
        """Reads the pixels; returns (column, row, slice) and MONAI's metadata."""
        return img.voxels(), {
            MetaKeys.AFFINE: img.affine,
            MetaKeys.ORIGINAL_AFFINE: img.affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.array(img.shape),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan"),
        }


class LoadCased(MapTransform):  # type: ignore[misc]
    """Loads an image and its masks.

    Args:
        keys: the first is the image, a path or one a channel; the others are masks. The item
            `values`, the mask's value for each segment name, is removed.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__(keys)
        self._nifti, self._series, self._first = (
            NibabelReader(),
            SeriesReader(),
            EnsureChannelFirst(),
        )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns `data` with MetaTensors (channels, x, y, slice).

        Raises:
            UnusableSeries: a DICOM file is unusable.
            ValueError: the channels' grids differ.
        """
        result = dict(data)
        values = result.pop("values", {})
        image_key, *masks = self.keys
        image = self._image(result[image_key])
        result[image_key] = image
        for key in masks:
            result[key] = self._mask(Path(str(result[key])), values, image)
        return result

    def _image(self, paths: Any) -> MetaTensor:
        if isinstance(paths, (str, Path)):
            return self._volume(paths)
        first, *others = (self._volume(path) for path in paths)
        grid = first.affine.numpy()
        for other in others:
            if other.shape != first.shape or not same_grid(
                first.shape[1:], other.affine.numpy(), grid
            ):
                raise ValueError("the channels' grids differ")
        first.set_array(torch.cat([volume.as_tensor() for volume in (first, *others)]))
        return first

    def _volume(self, path: str | Path) -> MetaTensor:
        # Does what MONAI's LoadImage does, with one reader. LoadImage creates all its readers, one
        # of which warns and logs wherever pydicom is installed, and tries others if one fails.
        reader = self._series if is_dicom(Path(path)) else self._nifti
        voxels, meta = reader.get_data(reader.read(str(path)))
        volume = MetaTensor.ensure_torch_and_prune_meta(
            np.asarray(voxels, np.float32), switch_endianness(meta, "<")
        )
        channel_first: MetaTensor = self._first(volume, meta_dict=meta)
        return channel_first

    def _mask(self, path: Path, values: Mapping[str, int], image: MetaTensor) -> MetaTensor:
        shape, affine = tuple(image.shape[1:]), image.affine.numpy()
        if path.suffix.lower() == ".dcm":
            from consortium.imaging.dicom_seg import read_segmentation

            voxels = read_segmentation(path, path.name, values, shape, affine).voxels
        else:
            mask = self._volume(path)
            aligned = (
                align_to_grid(mask[0].numpy(), mask.affine.numpy(), shape, affine)
                if len(mask) == 1
                else None
            )
            if aligned is None:
                return mask
            voxels = aligned
        tensor = torch.from_numpy(np.ascontiguousarray(voxels, np.float32))[None]
        return MetaTensor(tensor, affine=image.affine.clone())
