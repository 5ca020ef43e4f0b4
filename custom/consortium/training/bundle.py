"""The form in which a model leaves: a MONAI bundle folder with safetensors weights.

`configs/inference.json` runs by itself with MONAI and without this package. This package never
runs it: a bundle is opened from `metadata.json` and the weights alone, so that a hospital can open
a bundle of strangers without executing anything that came with it. Same model, same bytes.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import monai
import nibabel
import numpy as np
import safetensors
import torch
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors

import consortium
from consortium.data.datalist import Datalist
from consortium.data.transforms import preprocessing_config
from consortium.errors import Refused, UsageError
from consortium.files import whole_folder
from consortium.settings import Settings, parse_settings, read_json_object
from consortium.training.inference import THRESHOLD, exclusive, inferer_config
from consortium.training.networks import build_network, network_config

METADATA = Path("configs/metadata.json")
INFERENCE = Path("configs/inference.json")
WEIGHTS = Path("models/model.safetensors")


def write_bundle(
    folder: Path,
    settings: Settings,
    state: Mapping[str, torch.Tensor],
    *,
    trained: Mapping[str, Any],
) -> str:
    """Writes a model as a MONAI bundle, whole or not at all.

    Args:
        folder: the bundle's folder; a bundle that is there is replaced.
        settings: the job's.
        state: the network's state.
        trained: how the model came about; JSON values, kept in the metadata.

    Returns:
        sha256 of the safetensors file, hexadecimal.

    Raises:
        UsageError: `folder-in-use` where the folder holds something else than a bundle.
        EnvironmentProblem: `disk-full` or `cannot-write`.
    """
    weights = save_tensors(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()},
        metadata={"format": "pt"},
    )
    contents = {
        METADATA: _json(_metadata(settings, trained)),
        INFERENCE: _json(_inference(settings)),
        WEIGHTS: weights,
    }
    occupied = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if occupied and not (folder / METADATA).is_file():
        raise UsageError(
            "folder-in-use", "this is no model bundle", str(folder), "choose another folder"
        )
    with whole_folder(folder) as beside:
        for name, content in contents.items():
            (beside / name).parent.mkdir(parents=True, exist_ok=True)
            (beside / name).write_bytes(content)
    return hashlib.sha256(weights).hexdigest()


def load_bundle(folder: Path, device: torch.device | str) -> tuple[Settings, torch.nn.Module]:
    """Opens a model without running anything that came with it.

    Args:
        folder: the bundle's folder.
        device: where the network shall be.

    Returns:
        The settings that the model was trained with, and the network in evaluation mode.

    Raises:
        UsageError: `missing-folder`.
        Refused: `not-a-bundle`, `not-standalone` or `wrong-architecture`.
    """
    settings = _bundle_settings(folder)
    if needs_own_statistics(settings):
        raise Refused(
            "not-standalone",
            "the model needs the batch-norm statistics that each hospital kept to itself",
            str(folder),
            "train with update.buffers averaged, or with another normalisation",
        )
    try:
        network = build_network(settings)
    except UsageError as error:
        raise _not_a_bundle(folder, error.what) from None
    state = _read_weights(folder / WEIGHTS)
    _require_same(state, network.state_dict(), str(folder))
    network.load_state_dict(state)
    return settings, network.to(device).eval()


def identify(folder: Path) -> tuple[str, str]:
    """What a model is called where its work is kept.

    Args:
        folder: of a bundle that `load_bundle` has opened.

    Returns:
        Its name, from the job that trained it, and its version, the first 16 digits of the sha256
        of its weights; at most 64 characters each.
    """
    trained = read_json_object(folder / METADATA)["consortium"].get("trained")
    job = trained.get("job") if isinstance(trained, dict) else None
    printable = "".join(c for c in str(job or "segmentation") if c.isprintable() and c != "\\")
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    return f"Consortium {printable}"[:64].strip(), digest[:16]


def load_state(path: Path, expected: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Reads the weights of a model to start from.

    Args:
        path: a bundle's folder or a `.safetensors` file.
        expected: the state of the job's network.

    Returns:
        Tensors of the names, shapes and types of `expected`, in its order, on the CPU.

    Raises:
        UsageError: `missing-file`.
        Refused: `not-a-bundle`, or `wrong-architecture` with the first tensor that differs.
    """
    if path.is_dir():
        _bundle_settings(path)
        state = _read_weights(path / WEIGHTS)
    elif not path.exists():
        raise UsageError("missing-file", "no such model", str(path), "check the path")
    elif path.suffix != ".safetensors":
        raise Refused(
            "not-a-bundle",
            "neither a bundle's folder nor a .safetensors file",
            str(path),
            "other formats can run code when they are opened; convert it to safetensors",
        )
    else:
        state = _read_weights(path)
    _require_same(state, expected, str(path))
    return {name: state[name] for name in expected}


def needs_own_statistics(settings: Settings) -> bool:
    """Whether a model serves only the hospitals that trained it, each with what it kept."""
    return settings.update.buffers == "local" and settings.network.normalisation == "batch"


def load_start(path: Path, settings: Settings) -> dict[str, torch.Tensor]:
    """Reads the weights that a job starts from.

    Args:
        path: a bundle's folder or a `.safetensors` file.
        settings: of the job.

    Raises:
        UsageError: `missing-file`.
        Refused: `wrong-channels` or `wrong-labels` for a bundle of others; see `load_state`.
    """
    if path.is_dir():
        require_match(_bundle_settings(path), settings, str(path))
    return load_state(path, build_network(settings).state_dict())


def require_match(model: Settings, other: Settings | Datalist, where: str = "") -> None:
    """Refuses a model whose channels or labels are not those of a job or a hospital's data.

    Channels must have the same names in the same order, whatever their case. A job must have the
    same structures of the same values in the same order. Data must know a value of each structure
    and no value that the model does not; a value may not be another structure to the data. Names
    are taken as one where they are spelled nearly alike, or one is a part of the other.

    Args:
        model: settings that the model was trained with.
        other: a job's settings or a hospital's datalist.
        where: what `other` is, for the message.

    Raises:
        Refused: `wrong-channels` or `wrong-labels`.
    """
    if isinstance(other, Settings):
        _require_channels(model, other.data.channels, where)
        ours, theirs = list(model.data.labels.items()), list(other.data.labels.items())
        if ours != theirs:
            raise _wrong_labels(f"the model's are {dict(ours)}, here are {dict(theirs)}", where)
        return
    _require_channels(model, other.channels, where or str(other.folder))
    _require_data_labels(model, other.labels, where or str(other.folder))


def _require_channels(model: Settings, channels: Iterable[str], where: str) -> None:
    ours, theirs = list(model.data.channels), list(channels)
    if [name.casefold() for name in ours] != [name.casefold() for name in theirs]:
        raise Refused(
            "wrong-channels",
            f"the model's {len(ours)} channel(s) are {', '.join(ours)}; "
            f"here are {len(theirs)}: {', '.join(theirs)}",
            where,
            "give the same channels in the same order",
        )


def _require_data_labels(model: Settings, labels: Mapping[int, str], where: str) -> None:
    structures = model.data.labels
    for value, name in labels.items():
        if value and not any(value in values for values in structures.values()):
            raise _wrong_labels(
                f"the data's value {value} ({name}) is none of the model's {', '.join(structures)}",
                where,
            )
    for structure, values in structures.items():
        known = [value for value in values if value in labels]
        if not known:
            raise _wrong_labels(
                f"the model's {structure} is value {' or '.join(map(str, values))}, which the data "
                "do not have",
                where,
            )
        if len(known) == 1 and not _alike(structure, labels[known[0]]):
            raise _wrong_labels(
                f"value {known[0]} is {structure} to the model, {labels[known[0]]} to the data",
                where,
            )


def _alike(first: str, second: str) -> bool:
    """Whether two names may be one: tumour and tumor, enhancing and Enhancing tumour."""
    one, other = (
        "".join(filter(str.isalnum, name.casefold())).replace("our", "or").replace("oe", "e")
        for name in (first, second)
    )
    return one in other or other in one


def _wrong_labels(what: str, where: str) -> Refused:
    return Refused(
        "wrong-labels", what, where, "use a model of these labels, or name alike what is the same"
    )


def _not_a_bundle(folder: Path, what: str) -> Refused:
    return Refused("not-a-bundle", what, str(folder), "give the folder of a consortium model")


def _bundle_settings(folder: Path) -> Settings:
    if not folder.is_dir():
        raise UsageError("missing-folder", "no such model folder", str(folder), "check the path")
    if not (folder / METADATA).is_file():
        raise _not_a_bundle(folder, f"there is no {METADATA}")
    try:
        section = read_json_object(folder / METADATA).get("consortium")
        if not isinstance(section, dict) or not isinstance(section.get("settings"), dict):
            raise _not_a_bundle(folder, f"{METADATA} has no consortium settings")
        return parse_settings(section["settings"], METADATA.name)
    except UsageError as error:
        raise _not_a_bundle(folder, f"{METADATA}: {error.what}") from None


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        # Not mapped, so that nothing that becomes of the file later changes the tensors.
        return load_file(path, backend="pread")
    except (OSError, safetensors.SafetensorError) as error:
        raise _not_a_bundle(
            path, f"no readable safetensors file ({type(error).__name__})"
        ) from None


def _require_same(
    state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], where: str
) -> None:
    for name in [*expected, *sorted(set(state) - set(expected))]:
        if name not in state or name not in expected:
            what = f"tensor {name} is {'missing' if name in expected else 'not in the network'}"
        elif state[name].shape != expected[name].shape:
            ours, theirs = tuple(expected[name].shape), tuple(state[name].shape)
            what = f"tensor {name} has shape {theirs}, the network's {ours}"
        elif state[name].dtype != expected[name].dtype:
            what = f"tensor {name} is {state[name].dtype}, the network's {expected[name].dtype}"
        elif state[name].is_floating_point() and not torch.isfinite(state[name]).all():
            what = f"tensor {name} holds values that are no number"
        else:
            continue
        raise Refused("wrong-architecture", what, where, "use a model of the same network")


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def _metadata(settings: Settings, trained: Mapping[str, Any]) -> dict[str, Any]:
    """MONAI's metadata (https://docs.monai.io/en/stable/mb_specification.html) and our own."""
    data = settings.data
    size: list[Any] = list(data.size)
    return {
        "version": consortium.__version__,
        "changelog": {consortium.__version__: "trained by a consortium of hospitals"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {
            "nibabel": nibabel.__version__,
            "safetensors": safetensors.__version__,
        },
        "task": "segmentation",
        "description": f"Segments {', '.join(data.labels)} from {', '.join(data.channels)}.",
        "intended_use": "Research only. Not a medical device; not for diagnosis or treatment."
        + (
            " Of no use without a hospital's own batch-norm statistics."
            if needs_own_statistics(settings)
            else ""
        ),
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
        "consortium": {
            "version": consortium.__version__,
            "settings": settings.model_dump(mode="json", by_alias=True),
            "trained": dict(trained),
        },
    }


def _inference(settings: Settings) -> dict[str, Any]:
    """A MONAI bundle configuration that writes the mask of one image with nothing but MONAI.

    Run it as `python -m monai.bundle run --config_file configs/inference.json --bundle_root . \
    --image scan.nii.gz --output mask.nii.gz` (that command line needs the package `fire`), or as
    `monai.bundle.run(config_file=..., bundle_root=..., image=..., output=...)`.
    """
    paint = [values[0] for values in settings.data.labels.values()]
    order = f"torch.arange(1, {len(paint) + 1}).reshape(-1, 1, 1, 1)"
    if exclusive(settings.data):
        index = f"(p.argmax(0) + 1) * (p > {THRESHOLD}).any(0)"
    else:
        index = f"((p > {THRESHOLD}) * {order}).amax(0)"
    return {
        "imports": ["$import nibabel", "$from safetensors.torch import load_model"],
        "bundle_root": ".",
        "image": "image.nii.gz",
        "output": "mask.nii.gz",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        **network_config(settings),
        "weights": f"$@bundle_root + '/{WEIGHTS.as_posix()}'",
        "network": "$(load_model(@network_def, @weights), @network_def.to(@device).eval())[1]",
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
                    "func": f"$lambda p: torch.tensor({[0, *paint]}, dtype=torch.uint8)"
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
