"""What happens to an update on its way from a hospital to the orchestrator: steps in one order.

What always holds: the hospital applies the steps in order, and the orchestrator undoes them in
reverse; a step's state is on the hospital's disk before the update leaves; an update that does not
fit a step is refused as malformed; and a combination that cannot work is refused before a job runs,
from what the steps and the rule declare. Nothing here needs torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from consortium.protocol.buffers import Buffers
from consortium.protocol.compression import Compression
from consortium.protocol.step import Plain, Step


class Choices(Protocol):
    """What the settings say of updates; see `consortium.settings.base.Update`."""

    @property
    def compression(self) -> str | None:
        """The kind of `Compression`, or None."""


def _compress(choices: Choices) -> Step | None:
    return None if choices.compression is None else Compression(choices.compression)


STEPS: tuple[Callable[[Choices], Step | None], ...] = (_compress,)
"""Every step there is, in the order in which a hospital applies them."""


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
            buffers: as of `consortium.protocol.update.update_to_wire`.
            plain: goes with them.
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
        """The steps that keep no state, for a training next to the run."""
        return Pipeline(tuple(step for step in self.steps if not step.keeps_state))

    def check(self, rule: str, *, needs_plain_updates: bool) -> None:
        """Refuses a combination that cannot work.

        Args:
            rule: name of the aggregation rule.
            needs_plain_updates: whether the rule inspects single updates.

        Raises:
            ValueError: a step hides what the rule or an earlier step has to read.
        """
        readers = [rule] if needs_plain_updates else []
        for step in self.steps:
            if step.hides_updates and readers:
                raise ValueError(
                    f"{readers[0]} reads single updates and {step.name} hides them; choose one"
                )
            if step.needs_plain_updates:
                readers.append(step.name)


def build_pipeline(choices: Choices) -> Pipeline:
    """The pipeline of a job, from what its settings say of updates."""
    built = (build(choices) for build in STEPS)
    return Pipeline(tuple(step for step in built if step is not None))
