"""Patients that a task makes up, for `scripts/generate` and `scripts/demo`; none exists.

A task that has them has one `Synthetic`, `SYNTHETIC` in the module `synthetic` of its folder.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from consortium.imaging.pictures import Picture
    from consortium.tasks.base import TrainedModel


class Generated(Protocol):
    """A made-up hospital.

    Attributes:
        name: of its folder.
        patients: how many train.
        held_out: further patients, for validation.
    """

    @property
    def name(self) -> str:
        """Of its folder."""

    @property
    def patients(self) -> int:
        """How many train."""

    @property
    def held_out(self) -> int:
        """Further patients, for validation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be made.

    Attributes:
        like: one of `Synthetic.likes`.
        seed: of all randomness.
        dims: of scans: 2 for stacks of thick slices, 3 for cubes.
        shortcut: of X-rays: how unlike the hospitals make them, from 0 to 1.
    """

    like: str
    seed: int
    dims: Literal[2, 3] = 2
    shortcut: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthetic:
    """Made-up patients of one task.

    Attributes:
        patients: what is made, in words.
        likes: what they may be like; the demo's are like the first.
        generate: fills a folder with one folder a hospital, and names the hospitals.
        rounds: of the demo's training; the job's where None.
        assignments: settings of the demo's own.
        pictures: draws one patient of each hospital, with what a model says; given the model and
            the hospitals' folders by name.
    """

    patients: str
    likes: tuple[str, ...]
    generate: Callable[[Path, Request], Sequence[Generated]]
    rounds: int | None = None
    assignments: tuple[str, ...] = ()
    pictures: "Callable[[TrainedModel, Mapping[str, Path]], list[Picture]] | None" = None
