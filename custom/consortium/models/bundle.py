"""Writes and opens a trained model as a MONAI bundle, a folder with safetensors weights.

MONAI alone runs `configs/inference.json`, without this package. This package never runs it: it
opens a bundle from `metadata.json` and the weights alone, so a hospital can open a foreign bundle
without executing anything in it. The same model always gives the same bytes.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file, save_file

import consortium
from consortium.core.errors import Refused, UsageError
from consortium.core.files import whole_folder
from consortium.core.json_files import read_json_object
from consortium.core.plain_files import require_plain
from consortium.models.networks import build_network, network_config, network_outline
from consortium.protocol.schema import State
from consortium.settings.base import Settings
from consortium.tasks.registry import parse_settings, task_of

METADATA = Path("configs/metadata.json")
INFERENCE = Path("configs/inference.json")
WEIGHTS = Path("models/model.safetensors")
MAX_METADATA = 4 << 20
"""Bytes that a bundle's metadata may have."""
_LARGER, _SPARE = 4, 64 << 20  # a start model may have more inputs or outputs than the job's
_BATCH_STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")


def write_bundle(
    folder: Path,
    settings: Settings,
    state: Mapping[str, torch.Tensor],
    *,
    trained: Mapping[str, Any],
) -> str:
    """Writes a model as a MONAI bundle, atomically.

    Args:
        folder: the bundle's folder; an existing bundle is replaced.
        settings: the job's settings.
        state: the network's state.
        trained: how the model was trained; JSON values for the metadata.

    Returns:
        sha256 of the safetensors file, hexadecimal.

    Raises:
        UsageError: `folder-in-use` if the folder holds anything but a bundle.
        EnvironmentProblem: `disk-full` or `cannot-write`.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    contents = {
        METADATA: _json(_metadata(settings, trained)),
        INFERENCE: _json(_inference(settings)),
    }
    occupied = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if occupied and not (folder / METADATA).is_file():
        raise UsageError(
            "folder-in-use", "this is not a model bundle", str(folder), "choose another folder"
        )
    with whole_folder(folder) as partial:
        for name, content in contents.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(content)
        (partial / WEIGHTS).parent.mkdir()
        save_file(weights, partial / WEIGHTS, metadata={"format": "pt"})
        with (partial / WEIGHTS).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def load_bundle(folder: Path, device: torch.device | str) -> tuple[Settings, torch.nn.Module]:
    """Opens a bundle without running anything in it.

    Args:
        folder: the bundle's folder.
        device: device of the network.

    Returns:
        The settings that the model was trained with, and the network in evaluation mode.

    Raises:
        UsageError: `missing-folder`.
        Refused: `not-a-bundle`, `not-standalone` or `wrong-architecture`.
    """
    settings = _bundle_settings(folder)
    if settings.needs_own_statistics:
        raise Refused(
            "not-standalone",
            "the model needs the batch-norm statistics that each hospital kept",
            str(folder),
            "train with update.buffers averaged, or with another normalisation",
        )
    try:
        outline = network_outline(settings)
    except UsageError as error:
        raise _not_a_bundle(folder, error.what) from None
    # Before the network or the weights take any memory: the sizes of both are others' words.
    _require_same(_map_weights(folder / WEIGHTS), outline, str(folder))
    state = _read_weights(folder / WEIGHTS)
    _require_same(state, outline, str(folder))
    _require_finite(state, str(folder))
    network = build_network(settings)
    network.load_state_dict(state)
    return settings, network.to(device).eval()


def identify(folder: Path) -> tuple[str, str]:
    """Returns the name and version of a model, for the files that it produces.

    Args:
        folder: folder of a bundle that `load_bundle` has opened.

    Returns:
        The name, from the job that trained the model, and the version, the first 16 digits of the
        sha256 of its weights; at most 64 characters each.
    """
    section = read_json_object(folder / METADATA)["consortium"]
    trained = section.get("trained")
    job = trained.get("job") if isinstance(trained, dict) else None
    name = str(job or parse_settings(section["settings"]).task)
    printable = "".join(c for c in name if c.isprintable() and c != "\\")
    with (folder / WEIGHTS).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"Consortium {printable}"[:64].strip(), digest[:16]


def load_state(
    path: Path,
    expected: State,
    take: Callable[[State, State], State] = lambda state, expected: state,
) -> dict[str, torch.Tensor]:
    """Reads the weights of a model to start from.

    Args:
        path: a bundle's folder or a `.safetensors` file.
        expected: the state of the job's network.
        take: adapts the weights to `expected`; see `Task`.

    Returns:
        Tensors with the names, shapes and types of `expected`, in its order, on the CPU.

    Raises:
        UsageError: `missing-file`.
        Refused: `not-a-bundle`, or `wrong-architecture` with the first tensor that differs.
    """
    if path.is_dir():
        _bundle_settings(path)
        file = path / WEIGHTS
    elif not path.exists():
        raise UsageError("missing-file", "no such model", str(path), "check the path")
    elif path.suffix != ".safetensors":
        raise Refused(
            "not-a-bundle",
            "neither a bundle's folder nor a .safetensors file",
            str(path),
            "convert it to safetensors; other formats can run code when they are opened",
        )
    else:
        file = path
    _require_size(_map_weights(file), expected, str(path))
    state = take(_read_weights(file), expected)
    _require_same(state, expected, str(path))
    _require_finite(state, str(path))
    return {name: state[name] for name in expected}


def load_start(path: Path, settings: Settings) -> dict[str, torch.Tensor]:
    """Reads the weights that a job starts from.

    Args:
        path: a bundle's folder or a `.safetensors` file.
        settings: the job's settings.

    Raises:
        UsageError: `missing-file`.
        Refused: as `require_match` and `load_state`.
    """
    if path.is_dir():
        require_match(_bundle_settings(path), settings, str(path))
    return load_state(path, build_network(settings).state_dict(), task_of(settings).adapt_weights)


def require_match(model: Settings, other: Settings, where: str = "") -> None:
    """Refuses a model whose task, inputs or outputs differ from a job's.

    Args:
        model: settings that the model was trained with.
        other: the job's settings.
        where: location of the model or job, for the message.

    Raises:
        Refused: `wrong-task`, or a code of the task.
    """
    if model.task != other.task:
        raise Refused(
            "wrong-task",
            f"the model's task is {model.task}, the job's is {other.task}",
            where,
            "use a model of the job's task",
        )
    task_of(model).require_match(model, other, where)


def require_match_of(model: Mapping[str, Any], other: Settings, where: str = "") -> None:
    """Refuses a model whose settings, as JSON types, do not match a job's; see `require_match`."""
    require_match(parse_settings(dict(model), where), other, where)


def _not_a_bundle(folder: Path, what: str) -> Refused:
    return Refused("not-a-bundle", what, str(folder), "give the folder of a consortium model")


def _bundle_settings(folder: Path) -> Settings:
    if not folder.is_dir():
        raise UsageError("missing-folder", "no such model folder", str(folder), "check the path")
    if not (folder / METADATA).is_file():
        raise _not_a_bundle(folder, f"there is no {METADATA}")
    try:
        section = read_json_object(folder / METADATA, MAX_METADATA).get("consortium")
        if not isinstance(section, dict) or not isinstance(section.get("settings"), dict):
            raise _not_a_bundle(folder, f"{METADATA} has no consortium settings")
        return parse_settings(section["settings"], METADATA.name)
    except UsageError as error:
        raise _not_a_bundle(folder, f"{METADATA}: {error.what}") from None


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Reads weights; not mapped, so that later changes of the file do not change the tensors."""
    return _load(path, "pread")


def _map_weights(path: Path) -> dict[str, torch.Tensor]:
    """Maps weights into memory: their names, shapes and types are known, and no value is read."""
    return _load(path, "mmap")


def _load(path: Path, backend: str) -> dict[str, torch.Tensor]:
    try:
        require_plain(path)
        return load_file(path, backend=backend)
    except (OSError, RuntimeError, MemoryError, safetensors.SafetensorError) as error:
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
        else:
            continue
        statistics = name not in expected and name.endswith(_BATCH_STATISTICS)
        action = (
            'set network.normalisation to "batch", with which these weights were trained'
            if statistics
            else "use a model of the same network"
        )
        raise Refused("wrong-architecture", what, where, action)


def _require_finite(state: State, where: str) -> None:
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            what = f"tensor {name} holds NaN or infinity"
            raise Refused("wrong-architecture", what, where, "use a model of the same network")


def _require_size(state: State, expected: State, where: str) -> None:
    """Refuses weights that are far larger than a network's, before they are read."""
    size, usual = (
        sum(tensor.nbytes for tensor in tensors.values()) for tensors in (state, expected)
    )
    if size > _LARGER * usual + _SPARE:
        what = f"the weights take {size} bytes, the network's {usual}"
        raise Refused("wrong-architecture", what, where, "use a model of the same network")


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def _metadata(settings: Settings, trained: Mapping[str, Any]) -> dict[str, Any]:
    """Returns MONAI's metadata (https://docs.monai.io/en/stable/mb_specification.html) and ours."""
    described = task_of(settings).metadata(settings)
    packages = {"safetensors": safetensors.__version__, **described.pop("packages")}
    return {
        "version": consortium.__version__,
        "changelog": {consortium.__version__: "trained by a consortium of hospitals"},
        "monai_version": version("monai"),
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": dict(sorted(packages.items())),
        "task": settings.task,
        "description": described.pop("description"),
        "intended_use": "Research only. Not a medical device; not for diagnosis or treatment."
        + (
            " Works only with a hospital's own batch-norm statistics."
            if settings.needs_own_statistics
            else ""
        ),
        **described,
        "consortium": {
            "version": consortium.__version__,
            "settings": settings.model_dump(mode="json", by_alias=True),
            "trained": dict(trained),
        },
    }


def _inference(settings: Settings) -> dict[str, Any]:
    """Adds the task's own configuration to that of every task."""
    return {
        "bundle_root": ".",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        **network_config(settings),
        "weights": f"$@bundle_root + '/{WEIGHTS.as_posix()}'",
        "network": "$(load_model(@network_def, @weights), @network_def.to(@device).eval())[1]",
        **task_of(settings).inference(settings),
    }
