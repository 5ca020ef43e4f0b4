"""FLARE's filters of `consortium.protocol.compression`: compressed at the hospital, then rebuilt.

Both stand in the job's configuration and do nothing unless its settings ask for it. What always
holds: what rounding took of a round is on the hospital's disk before the update leaves, so that a
run that was killed goes on with the same bytes; and what cannot be rebuilt is refused as malformed
by who takes the updates, on record as any other refusal.
"""

import contextlib

from nvflare.apis.dxo import DXO, from_shareable
from nvflare.apis.filter import Filter
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable

from consortium.client.compression import compress_update, expand_update
from consortium.core.errors import failure_of
from consortium.core.site_policy import note_error
from consortium.flare.client.site import find_site
from consortium.flare.job import read_job
from consortium.flare.wire import failure_to_shareable, put_arrays, take_arrays


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
            buffers, dxo.meta["update"] = compress_update(
                kind, site.state, take_arrays(dxo.data), dxo.meta["update"]
            )
            dxo.data = put_arrays(buffers)
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
        if kind is None:
            return shareable
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
            buffers, plain = expand_update(kind, take_arrays(dxo.data), dxo.meta["update"])
            dxo.data, dxo.meta["update"] = put_arrays(buffers), plain
            return dxo.update_shareable(shareable)
        return shareable


def _update_in(shareable: Shareable) -> DXO | None:
    with contextlib.suppress(ValueError, TypeError):
        dxo = from_shareable(shareable)
        if isinstance(dxo.meta, dict) and "update" in dxo.meta:
            return dxo
    return None
