"""The adaptive server optimiser: a step with a separate learning rate for every coordinate.

Reddi et al., ICLR 2021, algorithm 2: with the mean change d, `m <- b1 m + (1 - b1) d`, then
`v <- v + d^2` (FedAdagrad), `v <- v - (1 - b2) d^2 sign(v - d^2)` (FedYogi) or
`v <- b2 v + (1 - b2) d^2` (FedAdam), and `model <- model + r m / (sqrt(v) + t)`, without a
correction of the first rounds; v starts at t^2. Use it if coordinates move at very different rates,
as in models with rarely used inputs. The learning rate r must be tuned, because the size of the
hospitals' change is divided out of the step. It does not stop a hospital that moves the mean: v
then reduces the steps of that coordinate for all hospitals, permanently with FedAdagrad.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Literal

import torch
from torch import Tensor

Method = Literal["adagrad", "adam", "yogi"]

_SECONDS: Mapping[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "adagrad": lambda v, square, b2: v + square,
    "adam": lambda v, square, b2: b2 * v + (1 - b2) * square,
    "yogi": lambda v, square, b2: v - (1 - b2) * square * torch.sign(v - square),
}


class AdaptiveServer:
    """An adaptive server optimiser over the trainable tensors; buffers follow the mean.

    Args:
        method: the formula of v.
        momentum: b1, at least 0 and below 1.
        learning_rate: r, above 0.
        beta2: b2, 0 to 1; FedAdagrad has none.
        tau: t, above 0, the smallest divisor of a step.
        trainable: names of the trainable tensors.
        state: state of an earlier round to resume from.
    """

    def __init__(
        self,
        method: Method,
        *,
        momentum: float,
        learning_rate: float,
        beta2: float,
        tau: float,
        trainable: Collection[str],
        state: Mapping[str, Tensor] | None = None,
    ):
        self._second = _SECONDS[method]
        self._momentum, self._learning_rate = momentum, learning_rate
        self._beta2, self._tau = beta2, tau
        self._trainable = frozenset(trainable)
        self.state = dict(state or {})

    @property
    def has_state(self) -> bool:
        """Whether there is a state to keep between rounds."""
        return True

    def blank(self, model: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the names, shapes and dtypes of `state` for such a model."""
        return {
            f"{name}.{moment}": torch.empty_like(model[name], dtype=torch.float64, device="meta")
            for name in self._trainable
            for moment in ("first", "second")
        }

    def step(self, change: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turns a round's mean change into a step; see `ServerMomentum.step`."""
        steps = dict(change)
        for name in sorted(self._trainable & change.keys()):
            mean = change[name].to(torch.float64)
            first = self.state.get(f"{name}.first", torch.zeros_like(mean))
            second = self.state.get(f"{name}.second", torch.full_like(mean, self._tau**2))
            first = self._momentum * first + (1 - self._momentum) * mean
            second = self._second(second, mean.square(), self._beta2)
            self.state |= {f"{name}.first": first, f"{name}.second": second}
            step = self._learning_rate * first / (second.sqrt() + self._tau)
            steps[name] = step.to(change[name].dtype)
        return steps
