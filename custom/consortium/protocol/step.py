"""One step of the pipeline between a hospital and the orchestrator."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from consortium.protocol.buffers import Buffers

Plain = dict[str, Any]
"""Fields that accompany an update's buffers; see `consortium.protocol.update.update_to_wire`."""


class Step(ABC):
    """A step of the pipeline. It may replace values, add fields to the wire and exclude rules.

    Attributes:
        name: the step's name, in messages and as the key of its field on the wire.
        needs_plain_updates: whether its server side reads each update separately. Such a step
            cannot precede one that hides updates.
        hides_updates: whether the orchestrator can read only the sum of a round's updates. Such a
            step excludes the rules that inspect single updates.
        keeps_state: whether it keeps state at the hospital between rounds. Such a step is left out
            of a training outside the run, whose rounds have the same numbers.
    """

    name: ClassVar[str]
    needs_plain_updates: ClassVar[bool] = False
    hides_updates: ClassVar[bool] = False
    keeps_state: ClassVar[bool] = False

    @abstractmethod
    def client(self, buffers: Buffers, plain: Plain, folder: Path) -> tuple[Buffers, Plain]:
        """Applies the step at the hospital, in a process without torch.

        The step's state is on disk when this returns, under the round of the update: a run that
        resumes after a kill may repeat the round and gets the same bytes.

        Args:
            buffers: the update's values; not changed.
            plain: the fields that accompany them; not changed.
            folder: the hospital's own folder of this run.
        """

    @abstractmethod
    def server(
        self, buffers: Mapping[str, NDArray[Any]], plain: Plain
    ) -> tuple[Mapping[str, NDArray[Any]], Plain]:
        """Undoes the step at the orchestrator and removes the step's fields.

        Args:
            buffers: as received; not changed.
            plain: as received; not changed.

        Raises:
            ValueError: the update does not fit the step.
        """
