"""The mean of the hospitals' changes, weighted by their training cases.

FedAvg (McMahan et al., AISTATS 2017, algorithm 1): `sum(n_k * x_k) / sum(n_k)`. When to use it:
hospitals that are honest, whatever their sizes. What it does not stop: a hospital that sends a
large but valid change; it moves the model in proportion to its cases.

Sums are kept in integers on a fixed grid, so they are exact and the order of arrival cannot matter.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consortium.update import Layout, Rule, State, crossing

MAX_TOTAL_CASES = 2**27
"""The sum of weights stays below; then no accumulator can overflow."""
MAX_INTEGER_CHANGE = 2**35
"""Largest magnitude of an element of an integer tensor."""

_HIGH, _LOW = 20, 55  # the two words count in units of 2**-20 and of 2**-55
_BLOCK = 1 << 15


class WeightedMean:
    """Streaming weighted mean with exact sums.

    Each element is rounded once, on arrival, to a multiple of 2**-55 and held in two 64-bit words
    (a coarse one in units of 2**-20, a fine one in units of 2**-55). Range: magnitudes up to 2**16
    with weights that sum up to 2**27. Resolution: the mean is off by at most 2**-56 and the
    rounding to the tensor's dtype. The state takes 16 bytes an element, however many hospitals,
    and is kept between rounds.

    Args:
        layout: of the model; only tensors that cross are averaged.
    """

    def __init__(self, layout: Layout):
        self._layout = crossing(layout)
        self._coarse = {
            name: np.zeros(_size(entry.shape), np.int64) for name, entry in self._layout.items()
        }
        self._fine = {
            name: np.zeros(_size(entry.shape), np.int64)
            for name, entry in self._layout.items()
            if entry.rule is Rule.MEAN
        }
        self.total_cases = 0

    def fits(self, tensors: State, cases: int) -> str | None:
        """Whether an update that passed `validate` can be added without an overflow.

        Returns:
            None if so, else the name of the tensor beyond the range, or "" for the weight.
        """
        if self.total_cases + cases >= MAX_TOTAL_CASES:
            return ""
        for name, entry in self._layout.items():
            if entry.rule is Rule.INTEGER and tensors[name].numel():
                low, high = (int(end) for end in torch.aminmax(tensors[name]))
                if max(-low, high) > MAX_INTEGER_CHANGE:
                    return name
        return None

    def add(self, tensors: State, cases: int) -> None:
        """Takes an update that passed `validate` and `fits`.

        Args:
            tensors: change of each tensor of the layout that crosses.
            cases: weight, at least 1.
        """
        for name, entry in self._layout.items():
            flat = tensors[name].reshape(-1)
            if entry.rule is Rule.INTEGER:
                self._coarse[name] += flat.to(torch.int64).numpy() * cases
            else:
                values = flat if flat.dtype == torch.float64 else flat.to(torch.float32)
                _accumulate(values.numpy(), cases, self._coarse[name], self._fine[name])
        self.total_cases += cases

    def mean(self) -> dict[str, Tensor]:
        """The weighted mean of what was added, in the dtypes and shapes of the layout.

        Raises:
            ZeroDivisionError: nothing was added.
        """
        if not self.total_cases:
            raise ZeroDivisionError("the mean of no updates")
        means = {}
        for name, entry in self._layout.items():
            coarse, total = self._coarse[name], self.total_cases
            mean = torch.empty(coarse.size, dtype=entry.dtype)
            # In blocks: fresh memory for each step of the division costs more than the step.
            for start in range(0, coarse.size, _BLOCK):
                block = slice(start, start + _BLOCK)
                mean[block] = torch.from_numpy(
                    (2 * coarse[block] + total) // (2 * total)
                    if entry.rule is Rule.INTEGER
                    else _divide(coarse[block], self._fine[name][block], total)
                )
            means[name] = mean.reshape(entry.shape)
        return means

    def reset(self) -> None:
        """Forgets all updates and keeps the memory."""
        for words in (*self._coarse.values(), *self._fine.values()):
            words.fill(0)
        self.total_cases = 0


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _accumulate(
    values: NDArray[np.floating], cases: int, coarse: NDArray[np.int64], fine: NDArray[np.int64]
) -> None:
    # Powers of two scale exactly, and a value less its rounding to the coarse grid is exact, so
    # only the last rint rounds.
    for start in range(0, values.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        scaled = values[block].astype(np.float64)
        scaled *= 2.0**_HIGH
        high = np.rint(scaled)
        scaled -= high
        scaled *= 2.0 ** (_LOW - _HIGH)
        coarse[block] += high.astype(np.int64) * cases
        fine[block] += np.rint(scaled).astype(np.int64) * cases


def _divide(coarse: NDArray[np.int64], fine: NDArray[np.int64], total: int) -> NDArray[np.float64]:
    # Carrying first leaves a fine word below 2**34, so that the two words cannot cancel inexactly.
    shift = _LOW - _HIGH
    carry = (fine + (1 << (shift - 1))) >> shift
    rest = (fine - (carry << shift)).astype(np.float64)
    mean = (coarse + carry).astype(np.float64)
    mean *= 2.0**-_HIGH
    rest *= 2.0**-_LOW
    mean += rest
    mean /= total
    return mean
