"""Predicts a mask on a scan's own grid.

Preprocessing, sliding inference and the return to the original grid are MONAI's, as in a model's
bundle. Probabilities, not masks, are resampled to the original grid and thresholded at a half. If
no two structures share a value of the mask, a voxel belongs to the most probable one at most.
"""

import gzip
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd
from monai.utils.enums import TraceKeys

from consortium.core.config_builder import ConfigBuilder
from consortium.core.errors import Refused, UsageError
from consortium.core.files import replace_file
from consortium.core.findings import Finding
from consortium.imaging.grids import align_to_grid, same_grid
from consortium.imaging.volumes import is_dicom, read_mask, require_size
from consortium.tasks.segmentation.settings import Data, SegmentationSettings
from consortium.tasks.segmentation.transforms import build_preprocessing

SLICES = 32
"""Slices in a batch of inference, 2-D."""

PATCHES = 2
"""Patches in a batch of inference, 3-D."""

THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class PreparedCase:
    """A patient's preprocessed image and its reference mask.

    Attributes:
        image: preprocessed, float32 (C, X, Y, Z); records how to undo the preprocessing.
        label_original: uint8 (L, x, y, z) of zeros and ones on the file's grid, or None.
        affine_original: (4, 4), the file's voxel to mm.
        spacing_original: size of the file's voxels, mm.
    """

    image: MetaTensor
    label_original: torch.Tensor | None
    affine_original: np.ndarray[Any, np.dtype[np.float64]]
    spacing_original: tuple[float, float, float]


def inferer_config(data: Data) -> dict[str, Any]:
    """The MONAI bundle configuration of the sliding inference, with id `inferer`.

    In 2-D, it predicts all slices of the last axis. In 3-D, patches overlap by a quarter and are
    blended with Gaussian weights; a volume smaller than the patch is padded with zeros.
    """
    if data.spatial_dims == 2:
        return {
            "_target_": "monai.inferers.SliceInferer",
            "spatial_dim": 2,
            "roi_size": data.size,
            "sw_batch_size": SLICES,
        }
    return {
        "_target_": "monai.inferers.SlidingWindowInferer",
        "roi_size": data.size,
        "sw_batch_size": PATCHES,
        "overlap": 0.25,
        "mode": "gaussian",
    }


def load_case(
    settings: SegmentationSettings,
    image: Path | tuple[Path, ...],
    label: Path | None,
    values: Mapping[str, int] | None = None,
) -> PreparedCase:
    """Reads and preprocesses one patient.

    Args:
        settings: settings of the model.
        image: NIfTI of (x, y, slice, channel), or (x, y, slice) with one channel, or the folder of
            a DICOM series; or several, one a channel.
        label: mask on the same grid, NIfTI or a DICOM segmentation, or None.
        values: the mask's value for each name that a segment of a DICOM segmentation may have; by
            default the model's structures.

    Raises:
        UsageError: `missing-file`, `unreadable-image`, `mask-mismatch` for a mask on another grid,
            `channel-mismatch` for channels on different grids, or a code of
            `consortium.core.finding_codes` for an invalid DICOM series.
        Refused: `wrong-channels` if the number of channels differs from the model's.
    """
    scans = [_open(path) for path in ((image,) if isinstance(image, Path) else image)]
    scan, path = scans[0], scans[0].path
    if len(scans) > 1:
        _require_same_grid(scans)
    channels = sum(scan.channels for scan in scans)
    expected = settings.data.channels
    if channels != len(expected):
        raise Refused(
            "wrong-channels",
            f"the image has {channels} channel(s), the model takes {len(expected)}",
            str(path),
            f"give {', '.join(expected)} in this order",
        )
    label_original = None
    if label is not None:
        if values is None:
            values = {name.casefold(): group[0] for name, group in settings.data.labels.items()}
        label_original = _read_label(settings.data, label, scan, values)
    try:
        prepared = _preprocessing(settings.data)({"image": image})["image"]
    except Exception as error:
        raise _unreadable(path, error) from error
    if not torch.isfinite(prepared).all():
        raise UsageError(
            "unreadable-image", "the image holds NaN or infinite voxels", str(path), "repair it"
        )
    for operation in prepared.applied_operations:
        # MONAI inverts a transform by the identity of its object, which does not survive pickling.
        operation[TraceKeys.ID] = TraceKeys.NONE
    spacing = nibabel.affines.voxel_sizes(scan.affine)
    return PreparedCase(
        image=prepared,
        label_original=label_original,
        affine_original=scan.affine,
        spacing_original=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
    )


def predict_probabilities(
    network: torch.nn.Module,
    image: MetaTensor,
    settings: SegmentationSettings,
    device: torch.device | str,
    before_batch: Callable[[], None] = lambda: None,
) -> torch.Tensor:
    """Predicts the probability of each structure on the preprocessed grid.

    Args:
        network: network on `device`; its training mode is restored afterwards.
        image: preprocessed, (C, X, Y, Z).
        settings: settings of the model.
        device: device of the network.
        before_batch: called before each batch; it may raise to stop.

    Returns:
        float32 (L, X, Y, Z) on the CPU.
    """
    device = torch.device(device)
    inferer = ConfigBuilder({"inferer": inferer_config(settings.data)}).build("inferer")
    was_training = network.training
    network.eval()

    def predict_batch(inputs: torch.Tensor) -> torch.Tensor:
        before_batch()
        outputs: torch.Tensor = network(inputs)
        return outputs

    try:
        with torch.no_grad():
            logits = inferer(image.as_tensor()[None].to(device), predict_batch)[0]
            return torch.sigmoid(logits.float()).cpu()
    finally:
        network.train(was_training)


def restore(
    probabilities: torch.Tensor, image: MetaTensor, settings: SegmentationSettings
) -> torch.Tensor:
    """Resamples probabilities from the preprocessed grid to the file's, by linear interpolation.

    Args:
        probabilities: (L, X, Y, Z).
        image: the preprocessed image, which records the transforms.
        settings: settings of the model.

    Returns:
        float32 (L, x, y, z).
    """
    invert = Invertd(
        "probability", _preprocessing(settings.data), orig_keys="image", nearest_interp=False
    )
    restored = invert({"image": image, "probability": MetaTensor(probabilities)})["probability"]
    return torch.as_tensor(restored.as_tensor())


def binarise(probabilities: torch.Tensor, settings: SegmentationSettings) -> torch.Tensor:
    """Thresholds probabilities into a mask for each structure.

    Args:
        probabilities: (L, x, y, z).
        settings: settings of the model; see `exclusive`.

    Returns:
        uint8 (L, x, y, z): 1 where the probability is above a half and, for exclusive structures,
        the largest (the first in a tie).
    """
    present = probabilities > THRESHOLD
    if exclusive(settings.data):
        winner = probabilities.argmax(0)
        present &= torch.stack([winner == index for index in range(len(probabilities))])
    return present.to(torch.uint8)


def predict_case(
    network: torch.nn.Module,
    case: PreparedCase,
    settings: SegmentationSettings,
    device: torch.device | str,
    before_batch: Callable[[], None] = lambda: None,
) -> torch.Tensor:
    """Segments one patient on the grid of the original file; see `predict_probabilities`.

    Returns:
        uint8 (L, x, y, z) of zeros and ones; see `binarise`.
    """
    probabilities = predict_probabilities(network, case.image, settings, device, before_batch)
    return binarise(restore(probabilities, case.image, settings), settings)


def to_mask(binary: torch.Tensor, settings: SegmentationSettings) -> torch.Tensor:
    """Merges structures into one mask, each with its first value, later ones over earlier ones.

    Args:
        binary: (L, x, y, z) of zeros and ones.
        settings: settings of the model.

    Returns:
        uint8 (x, y, z).
    """
    mask = torch.zeros(binary.shape[1:], dtype=torch.uint8)
    for structure, values in zip(binary, settings.data.labels.values(), strict=True):
        mask[structure > 0] = values[0]
    return mask


def write_mask(
    path: Path, mask: torch.Tensor, affine: np.ndarray[Any, np.dtype[np.float64]]
) -> None:
    """Writes a mask as NIfTI, atomically; the same mask gives the same bytes.

    Args:
        path: ends in .nii or .nii.gz.
        mask: uint8 (x, y, z).
        affine: (4, 4) voxel to mm.

    Raises:
        EnvironmentProblem: `disk-full` or `cannot-write`.
    """
    image = nibabel.Nifti1Image(mask.numpy(), affine)
    image.header.set_xyzt_units("mm")
    content = image.to_bytes()
    if path.name.endswith(".gz"):
        content = gzip.compress(content, mtime=0)

    def write(partial: Path) -> None:
        partial.write_bytes(content)

    replace_file(path, write)


def exclusive(data: Data) -> bool:
    """Whether no two structures share a value of the mask."""
    values = [value for group in data.labels.values() for value in set(group)]
    return len(values) == len(set(values))


def _preprocessing(data: Data) -> Compose:
    return _cached_preprocessing(data.model_dump_json())


@lru_cache(maxsize=8)
def _cached_preprocessing(data: str) -> Compose:
    return build_preprocessing(Data.model_validate_json(data), with_label=False)


@dataclass(frozen=True, slots=True)
class _Scan:
    """The headers of a file or a series; its voxels are not read yet."""

    path: Path
    shape: tuple[int, ...]
    channels: int
    affine: np.ndarray[Any, np.dtype[np.float64]]
    reference: str = ""


def _open(path: Path) -> _Scan:
    """Reads the headers of a NIfTI file of 3 or 4 axes, or of a DICOM series."""
    if is_dicom(path):
        return _open_series(path)
    file = _open_nifti(path)
    channels = file.shape[3] if len(file.shape) == 4 else 1
    return _Scan(path, tuple(file.shape[:3]), channels, np.asarray(file.affine, float))


def _open_series(path: Path) -> _Scan:
    from consortium.imaging.dicom import UnusableSeries, open_series

    try:
        series = open_series(path, path.name)
    except UnusableSeries as problem:
        raise _unusable(path, problem.finding) from None
    return _Scan(path, series.shape, 1, series.affine, series.reference)


def _require_same_grid(scans: Sequence[_Scan]) -> None:
    first = scans[0]
    for scan in scans:
        if scan.channels != 1:
            problem = "a file of one channel has several channels"
        elif scan.shape != first.shape or not same_grid(scan.shape, scan.affine, first.affine):
            problem = "the channels lie on different grids"
        elif scan.reference and first.reference and scan.reference != first.reference:
            problem = "the channels have different frames of reference"
        else:
            continue
        raise UsageError(
            "channel-mismatch", problem, str(scan.path), "resample the channels to one grid"
        )


def _open_nifti(path: Path) -> Any:
    if not path.is_file():
        raise UsageError("missing-file", "no such file", str(path), "check the path")
    try:
        with nibabel.imageglobals.LoggingOutputSuppressor():
            scan = nibabel.load(path)
        axes = len(scan.shape)
        require_size(scan)
    except Exception as error:  # a damaged file makes nibabel raise nearly anything
        raise _unreadable(path, error) from error
    if axes not in (3, 4) or 0 in scan.shape:
        raise UsageError(
            "unreadable-image",
            f"the image has shape {tuple(scan.shape)}",
            str(path),
            "give (x, y, slice, channel) or (x, y, slice)",
        )
    return scan


def _unreadable(path: Path, problem: BaseException | None) -> UsageError:
    while problem is not None:
        finding = getattr(problem, "finding", None)
        if isinstance(finding, Finding):
            return _unusable(path, finding)
        problem = problem.__cause__
    return UsageError(
        "unreadable-image", "not a NIfTI file, or damaged", str(path), "copy or export it again"
    )


def _unusable(path: Path, finding: Finding) -> UsageError:
    detail = finding.detail
    if Path(finding.file) != Path(path.name):
        detail = f"{Path(finding.file).name}: {detail}"
    return UsageError(finding.code, detail, str(path), "export it again, as it was scanned")


def _read_label(data: Data, label: Path, scan: _Scan, values: Mapping[str, int]) -> torch.Tensor:
    if label.suffix.lower() == ".dcm":
        segmentation = read_mask(
            label.parent, label, values, scan.shape, scan.affine, scan.reference
        )
        if isinstance(segmentation, Finding):
            raise _unusable(label, segmentation)
        voxels = segmentation.voxels.astype(np.float32)
    else:
        mask = _open_nifti(label)
        try:
            stored = np.asarray(mask.dataobj, dtype=np.float32)
        except Exception as error:
            raise _unreadable(label, error) from error
        if stored.ndim == 4 and stored.shape[3] == 1:
            stored = stored[..., 0]
        aligned = (
            align_to_grid(stored, mask.affine, scan.shape, scan.affine)
            if stored.ndim == 3
            else None
        )
        if aligned is None:
            raise UsageError(
                "mask-mismatch",
                f"the mask's shape {stored.shape} or affine differs from that of the image "
                f"{scan.path.name}, {scan.shape}",
                str(label),
                "resample the mask to the image's grid",
            )
        voxels = np.ascontiguousarray(aligned)
    mask_values = torch.from_numpy(voxels)
    return torch.stack(
        [
            torch.isin(mask_values, torch.tensor(group, dtype=torch.float32)).to(torch.uint8)
            for group in data.labels.values()
        ]
    )
