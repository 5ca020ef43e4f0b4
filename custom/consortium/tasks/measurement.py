"""What a task's evaluation of a network gives: the score, and the predictions that it rests on."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from consortium.protocol.metrics import Score

TOLERANCE = 1e-3
"""Change of a patient's value below which the patient counts as unchanged."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredGroup:
    """Figures of a score that rest on the same predictions.

    Attributes:
        subject: what they are about; groups of one subject are compared with each other, whatever a
            job calls its classes or structures.
        figures: their names in the score, in an order that is fixed for the subject.
        values: a number for each patient (patients,): whether the patient is a hit, the patient's
            own figure or, with `positive`, the patient's score, of which the order alone matters.
        positive: whether a patient is of the class whose figures these are (patients,).
        curve: the class whose reliability curve belongs to the group, or empty.
    """

    subject: str
    figures: tuple[str, ...]
    values: NDArray[Any]
    positive: NDArray[np.bool_] | None = None
    curve: str = ""


class Measured(NamedTuple):
    """The evaluation of a network on the validation patients.

    Attributes:
        value: the figure by which a model is selected, for the hospital's own use.
        score: the score that may leave the hospital; None without patients.
        patients: the patients behind the score, in the order of the groups' values.
        groups: every figure of the score that is not null belongs to one group.
    """

    value: float
    score: Score | None
    patients: tuple[str, ...] = ()
    groups: tuple[ScoredGroup, ...] = ()


@dataclass(slots=True)
class _Heaviest:
    """The largest weight at or below a position (a Fenwick tree of maxima)."""

    size: int
    tree: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tree = [0] * (self.size + 1)

    def below(self, position: int) -> int:
        best = 0
        while position > 0:
            best = max(best, self.tree[position])
            position -= position & -position
        return best

    def put(self, position: int, weight: int) -> None:
        position += 1
        while position <= self.size:
            self.tree[position] = max(self.tree[position], weight)
            position += position & -position


def ranks(values: NDArray[Any]) -> NDArray[np.int64]:
    """The rank of each value among the distinct ones, from 0."""
    return np.unique(values, return_inverse=True)[1].reshape(-1).astype(np.int64)


def changed_values(first: NDArray[Any], second: NDArray[Any]) -> int:
    """Number of patients whose values differ by more than `TOLERANCE`."""
    return int((np.abs(first - second) > TOLERANCE).sum())


def changed_order(
    first: NDArray[Any],
    second: NDArray[Any],
    positive: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    enough: int,
) -> int:
    """Number of patients to leave out so that both orders and classes agree; ties must agree too.

    Args:
        first: ranks (patients,).
        second: ranks of the same patients.
        positive: whether a patient is of the class, for each of the two.
        enough: where more patients than this would be left out, a lower number may be returned,
            which is at least as large.
    """
    same = positive[0] == positive[1]
    others = int((~same).sum())
    if others >= enough:
        return others
    order = np.lexsort((second[same], first[same]))
    one, two = first[same][order], second[same][order]
    up, across = np.diff(one), np.diff(two)
    # A patient that is left out resolves two conflicts of neighbours at most.
    conflicts = int((~(((up == 0) & (across == 0)) | ((up > 0) & (across > 0)))).sum())
    if others + (conflicts + 1) // 2 >= enough:
        return others + (conflicts + 1) // 2
    return len(first) - _longest_agreement(one, two)


def _longest_agreement(first: NDArray[Any], second: NDArray[Any]) -> int:
    """Size of the largest group of patients that two rankings put into the same order."""
    if not len(first):
        return 0
    pairs, counts = np.unique(np.stack([first, second]), axis=1, return_counts=True)
    heaviest = _Heaviest(int(second.max()) + 1)
    # Equal first ranks are visited from the highest second one down, so that they never follow.
    for index in np.lexsort((-pairs[1], pairs[0])).tolist():
        position = int(pairs[1][index])
        heaviest.put(position, heaviest.below(position) + int(counts[index]))
    return heaviest.below(heaviest.size)
