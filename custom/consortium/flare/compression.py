"""FLARE's filters of `consortium.protocol.compression`: compressed at the hospital, then rebuilt.

Both stand in the job's configuration and do nothing unless its settings ask for it. What always
holds: what rounding took of a round is on the hospital's disk before the update leaves, so that a
run that was killed goes on with the same bytes; and what cannot be rebuilt is refused as malformed
by who takes the updates, on record as any other refusal.
"""

import contextlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from nvflare.apis.dxo import DXO, from_shareable
from nvflare.apis.filter import Filter
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from consortium.core.errors import failure_of
from consortium.core.files import replace_file
from consortium.core.site_policy import note_error
from consortium.flare.client.site import find_site
from consortium.flare.job import read_job
from consortium.flare.wire import failure_to_shareable, put_arrays, take_arrays
from consortium.protocol.compression import ErrorFeedbackCompressor, decompress

_KIND = "compression"


class CompressUpdate(Filter):
    """The last of a hospital's result filters: an update leaves in fewer bytes."""

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """Makes an update smaller; other answers pass."""
        dxo = _update_in(shareable)
        if dxo is None:
            return shareable
        job = read_job(fl_ctx)
        kind = job.settings.update.compression
        if kind is None:
            return shareable
        site = find_site(job, fl_ctx)
        try:
            plain = dxo.meta["update"]
            compressor = ErrorFeedbackCompressor(kind, _load_residual(site.state, plain["round"]))
            dxo.data = put_arrays(compressor.compress(plain["contents"], take_arrays(dxo.data)))
            if compressor.residual is not None:
                _save_residual(site.state, plain["round"], compressor.residual)
            plain[_KIND] = kind
            return dxo.update_shareable(shareable)
        except Exception as error:  # answered, so that no round waits for this site
            note_error(site.state, error)
            return failure_to_shareable(failure_of(error, fl_ctx.get_identity_name()))


class ExpandUpdate(Filter):
    """The first of the orchestrator's result filters: rebuilds what `CompressUpdate` made."""

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """Rebuilds an update; what does not fit is left as it is, and refused where it is taken."""
        dxo = _update_in(shareable)
        if dxo is None:
            return shareable
        kind = read_job(fl_ctx).settings.update.compression
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
            plain = dxo.meta["update"]
            if kind is not None and plain.pop(_KIND, None) == kind:
                dxo.data = put_arrays(decompress(kind, plain["contents"], take_arrays(dxo.data)))
                return dxo.update_shareable(shareable)
        return shareable


def _update_in(shareable: Shareable) -> DXO | None:
    with contextlib.suppress(ValueError, TypeError):
        dxo = from_shareable(shareable)
        if isinstance(dxo.meta, dict) and "update" in dxo.meta:
            return dxo
    return None


def _name(round_number: int) -> str:
    return f"residual-{round_number:06d}.safetensors"


def _residual_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("residual-*.safetensors"))


def _load_residual(folder: Path, before_round: int) -> NDArray[np.float32] | None:
    """What rounding took of the last round before; None where that is not known."""
    before = [path for path in _residual_files(folder) if path.name < _name(before_round)]
    with contextlib.suppress(OSError, SafetensorError, KeyError, IndexError):
        found: NDArray[np.float32] = load_file(before[-1])["residual"]
        return found
    return None


def _save_residual(folder: Path, round_number: int, residual: NDArray[np.float32]) -> None:
    """Keeps it, and that of the last round before, for this round may be asked for again."""
    path = folder / _name(round_number)
    replace_file(path, lambda beside: save_file({"residual": residual}, beside))
    for stale in [kept for kept in _residual_files(folder) if kept.name <= path.name][:-2]:
        stale.unlink(missing_ok=True)
