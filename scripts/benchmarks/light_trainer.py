"""A hospital of the benchmark `scale` without FLARE: it answers at once with a fixed change.

The change is the same as in `scale_parts`; nothing is trained and no folder is read.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consortium.client.trainer import LocalTrainer, Progress
from consortium.core.site_policy import Site
from consortium.models.networks import build_network
from consortium.protocol.codec import digest, pack, unpack
from consortium.protocol.metrics import Metrics
from consortium.protocol.schema import State, schema_of, shared_tensors
from consortium.protocol.update import Update
from consortium.settings.base import Settings

_CHANGE = 1e-3  # standard deviation of a change


class LightTrainer(LocalTrainer):
    """Answers `train` and `validate` without training."""

    def __init__(self, site: Site, settings: Settings):
        self._name = site.name
        network = build_network(settings)
        schema = schema_of(network, local_buffers=settings.update.buffers == "local")
        state = network.state_dict()
        self._contents, self._blank = pack({name: state[name] for name in shared_tensors(schema)})

    def train(self, base: State, round_number: int, *, keep: bool = True) -> Update:
        """Returns a fixed change."""
        buffers = {key: _change(flat) for key, flat in self._blank.items()}
        return Update(
            hospital=self._name,
            round=round_number,
            base_sha256=_digest_once(base),
            cases=1,
            tensors=unpack(self._contents, buffers),
            metrics=Metrics(),
        )

    def validate(self, model: State) -> Metrics:
        """Returns empty metrics."""
        return Metrics()


def _change(values: NDArray[Any]) -> NDArray[Any]:
    if not np.issubdtype(values.dtype, np.floating):
        return np.zeros_like(values)
    noise = np.random.default_rng(0).standard_normal(values.shape, np.float32)
    return (noise * _CHANGE).astype(values.dtype)


_last: list[tuple[State, str]] = []


def _digest_once(base: State) -> str:
    """Computes the digest of a model once for all hospitals of a process.

    Over FLARE the light hospital receives the digest with the model.
    """
    if not _last or _last[0][0] is not base:
        _last[:] = [(base, digest(base))]
    return _last[0][1]


def open_light(site: Site, settings: Settings, report: Callable[[Progress], None]) -> LightTrainer:
    """Opens a light hospital."""
    return LightTrainer(site, settings)
