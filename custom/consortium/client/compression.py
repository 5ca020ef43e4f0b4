"""A hospital's compressed updates: what rounding took is kept on its disk between the rounds.

What always holds: what rounding took of a round is on the hospital's disk before the update leaves,
so that a run that was killed goes on with the same bytes. Nothing here needs torch.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from consortium.core.files import replace_file
from consortium.protocol.compression import ErrorFeedbackCompressor, decompress

_KIND = "compression"
"""Key of an update's plain part: how its buffers were compressed."""

Buffers = Mapping[str, NDArray[Any]]


def compress_update(
    kind: str, state: Path, buffers: Buffers, plain: Mapping[str, Any]
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """An update in fewer bytes.

    Args:
        kind: `update.compression` of the settings.
        state: the hospital's own folder of the run.
        buffers: see `consortium.protocol.update.update_to_wire`.
        plain: the same.

    Raises:
        EnvironmentProblem: what rounding took cannot be written.
    """
    compressor = ErrorFeedbackCompressor(kind, load_residual(state, plain["round"]))
    compressed = compressor.compress(plain["contents"], dict(buffers))
    if compressor.residual is not None:
        save_residual(state, plain["round"], compressor.residual)
    return compressed, {**plain, _KIND: kind}


def expand_update(kind: str | None, buffers: Any, plain: Any) -> tuple[Any, Any]:
    """Undoes `compress_update`; what does not fit stays as it is and is refused as malformed.

    Args:
        kind: `update.compression` of the settings; None leaves everything as it is.
        buffers: as received.
        plain: the same.
    """
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
        if kind is not None and plain.get(_KIND) == kind:
            rest = {key: value for key, value in plain.items() if key != _KIND}
            return decompress(kind, rest["contents"], buffers), rest
    return buffers, plain


def _name(round_number: int) -> str:
    return f"residual-{round_number:06d}.safetensors"


def _residual_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("residual-*.safetensors"))


def load_residual(folder: Path, before_round: int) -> NDArray[np.float32] | None:
    """What rounding took of the last round before; None where that is not known."""
    before = [path for path in _residual_files(folder) if path.name < _name(before_round)]
    with contextlib.suppress(OSError, SafetensorError, KeyError, IndexError):
        found: NDArray[np.float32] = load_file(before[-1])["residual"]
        return found
    return None


def save_residual(folder: Path, round_number: int, residual: NDArray[np.float32]) -> None:
    """Keeps it, and that of the last round before, for this round may be asked for again."""
    path = folder / _name(round_number)
    replace_file(path, lambda beside: save_file({"residual": residual}, beside))
    for stale in [kept for kept in _residual_files(folder) if kept.name <= path.name][:-2]:
        stale.unlink(missing_ok=True)
