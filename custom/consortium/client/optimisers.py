"""The optimisers of a hospital's steps, whose bytes are those of `torch.optim`.

`torch.optim` imports torch's compiler at its first step. Nothing here uses it, and it costs every
trainer 2.1 s of CPU time at its start, as much as torch itself (torch 2.13). These call the same
kernels without it; a test compares their bytes.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from consortium.settings.base import Training

_BETAS = (0.9, 0.999)
_EPSILON = 1e-8


class Optimiser(Protocol):
    """Takes steps along gradients; `learning_rate` may change between two steps."""

    learning_rate: float

    def zero_grad(self) -> None:
        """Drops the gradients."""

    def step(self) -> None:
        """Changes the parameters in place, except those without a gradient."""


class _Optimiser:
    def __init__(self, parameters: Iterable[Tensor], learning_rate: float, weight_decay: float):
        self._parameters = list(parameters)
        self.learning_rate = learning_rate
        self._weight_decay = weight_decay

    def zero_grad(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        self._step([each for each in self._parameters if each.grad is not None])

    def _step(self, parameters: Sequence[Tensor]) -> None:
        raise NotImplementedError


class SGD(_Optimiser):
    """Plain gradient descent; the decay is added to the gradient."""

    def _step(self, parameters: Sequence[Tensor]) -> None:
        for parameter in parameters:
            gradient = parameter.grad
            assert gradient is not None
            if self._weight_decay:
                gradient = gradient.add(parameter, alpha=self._weight_decay)
            parameter.add_(gradient, alpha=-self.learning_rate)


class AdamW(_Optimiser):
    """Adam with decoupled decay (Loshchilov and Hutter, ICLR 2019, algorithm 2).

    All parameters of a dtype take a step in one kernel, in a third of the time of a loop, which
    matters for small networks.
    """

    def __init__(self, parameters: Iterable[Tensor], learning_rate: float, weight_decay: float):
        super().__init__(parameters, learning_rate, weight_decay)
        self._state: dict[int, tuple[Tensor, Tensor, Tensor]] = {}  # by the parameter's identity

    def _step(self, parameters: Sequence[Tensor]) -> None:
        for dtype in dict.fromkeys(parameter.dtype for parameter in parameters):
            group = [parameter for parameter in parameters if parameter.dtype == dtype]
            first, second, steps = zip(*map(self._moments, group), strict=True)
            torch._foreach_add_(list(steps), 1)
            torch._fused_adamw_(
                group,
                [parameter.grad for parameter in group if parameter.grad is not None],
                list(first),
                list(second),
                [],
                list(steps),
                amsgrad=False,
                lr=self.learning_rate,
                beta1=_BETAS[0],
                beta2=_BETAS[1],
                weight_decay=self._weight_decay,
                eps=_EPSILON,
                maximize=False,
            )

    def _moments(self, parameter: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the mean of gradients, of their squares, and the number of steps."""
        if id(parameter) not in self._state:
            self._state[id(parameter)] = (
                torch.zeros_like(parameter),
                torch.zeros_like(parameter),
                torch.zeros((), dtype=torch.float32, device=parameter.device),
            )
        return self._state[id(parameter)]


def build_optimiser(parameters: Iterable[Tensor], plan: Training) -> Optimiser:
    """Builds a fresh optimiser of the settings' choice."""
    kind = SGD if plan.optimiser == "sgd" else AdamW
    return kind(parameters, plan.learning_rate, plan.weight_decay)
