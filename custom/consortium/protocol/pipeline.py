"""The steps that process an update between a hospital and the orchestrator.

The hospital applies the steps in order, and the orchestrator undoes them in reverse. A step's state
is on the hospital's disk before the update leaves. An update that does not fit a step is refused as
malformed. The steps and the rule declare what they need, so a combination that cannot work is
refused before a job runs. Nothing here needs torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from consortium.protocol.buffers import Buffers
from consortium.protocol.compression import Compression
from consortium.protocol.step import Plain, Step


class PipelineSettings(Protocol):
    """The settings that define a pipeline; see `consortium.settings.base.UpdateSettings`."""

    @property
    def compression(self) -> str | None:
        """The kind of `Compression`, or None."""


def _compress(settings: PipelineSettings) -> Step | None:
    return None if settings.compression is None else Compression(settings.compression)


STEPS: tuple[Callable[[PipelineSettings], Step | None], ...] = (_compress,)
"""All steps, in the order in which a hospital applies them."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The steps of a job.

    Attributes:
        steps: in the order in which a hospital applies them.
    """

    steps: tuple[Step, ...] = ()

    def client(self, buffers: Buffers, plain: Plain, folder: Path) -> tuple[Buffers, Plain]:
        """Applies every step to an update at the hospital.

        Args:
            buffers: see `consortium.protocol.update.update_to_wire`.
            plain: the fields that accompany the buffers.
            folder: the hospital's own folder of this run.
        """
        for step in self.steps:
            buffers, plain = step.client(buffers, plain, folder)
        return buffers, plain

    def server(
        self, buffers: Mapping[str, NDArray[Any]], plain: Any
    ) -> tuple[Mapping[str, NDArray[Any]], Any]:
        """Undoes every step at the orchestrator; `update_from_wire` checks what remains.

        Args:
            buffers: as received.
            plain: as received, of any type.

        Raises:
            ValueError: the update does not fit a step.
        """
        if self.steps and not isinstance(plain, dict):
            raise ValueError("malformed")
        for step in reversed(self.steps):
            buffers, plain = step.server(buffers, plain)
        return buffers, plain

    def without_state(self) -> "Pipeline":
        """Returns the steps that keep no state, for a training outside the run."""
        return Pipeline(tuple(step for step in self.steps if not step.keeps_state))

    def check(self, rule: str, *, needs_plain_updates: bool) -> None:
        """Refuses a combination that cannot work.

        Args:
            rule: name of the aggregation rule.
            needs_plain_updates: whether the rule inspects single updates.

        Raises:
            ValueError: a step hides updates that the rule or an earlier step must read.
        """
        readers = [rule] if needs_plain_updates else []
        for step in self.steps:
            if step.hides_updates and readers:
                raise ValueError(
                    f"{readers[0]} reads single updates and {step.name} hides them; choose one"
                )
            if step.needs_plain_updates:
                readers.append(step.name)


def build_pipeline(settings: PipelineSettings) -> Pipeline:
    """Builds the pipeline of a job from its settings of updates."""
    built = (build(settings) for build in STEPS)
    return Pipeline(tuple(step for step in built if step is not None))
