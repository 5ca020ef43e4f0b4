"""The interface of a task's generated patients, for `scripts/generate` and `scripts/demo`.

A task that generates patients has one `Synthetic`: `SYNTHETIC` in its module `synthetic`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from consortium.imaging.pictures import Picture
    from consortium.tasks.base import TrainedModel


class GeneratedHospital(Protocol):
    """A generated hospital.

    Attributes:
        name: name of its folder.
        patients: number of patients for training.
        held_out: number of further patients, for validation.
    """

    @property
    def name(self) -> str:
        """Name of its folder."""

    @property
    def patients(self) -> int:
        """Number of patients for training."""

    @property
    def held_out(self) -> int:
        """Number of further patients, for validation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The options of a generation.

    Attributes:
        like: the data set to imitate, one of `Synthetic.likes`.
        seed: seed of all randomness.
        dims: for scans: 2 for stacks of thick slices, 3 for cubes.
        shortcut: for X-rays: how much the hospitals' scanners differ, from 0 to 1.
    """

    like: str
    seed: int
    dims: Literal[2, 3] = 2
    shortcut: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthetic:
    """The generator of one task's patients.

    Attributes:
        patients: the kind of data, as a noun for messages.
        likes: the data sets that can be imitated; the demo uses the first.
        generate: writes one folder a hospital into a folder and returns the hospitals.
        rounds: number of rounds of the demo; None for the job's.
        assignments: settings that the demo overrides.
        pictures: draws one patient of each hospital with a model's prediction, from the model and
            the hospitals' folders by name.
    """

    patients: str
    likes: tuple[str, ...]
    generate: Callable[[Path, Request], Sequence[GeneratedHospital]]
    rounds: int | None = None
    assignments: tuple[str, ...] = ()
    pictures: "Callable[[TrainedModel, Mapping[str, Path]], list[Picture]] | None" = None
