"""The server optimiser with Nesterov's momentum.

`v <- m v + d`, `model <- model + r (d + m v)` for the mean change d: federated averaging with
server momentum (Hsu et al., arXiv 1909.06335, section 4.2), in Nesterov's form (Sutskever et al.,
ICML 2013, equations 3 and 4, rewritten for the model that is sent to the hospitals). A mean over
hospitals is less noisy than one hospital's change, so a step may be longer than any hospital's.
With m = 0 and r = 1 the result is exactly FedAvg. It hides nothing from the orchestrator.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor


class ServerMomentum:
    """Server momentum over the trainable tensors; buffers follow the mean.

    Args:
        momentum: m, at least 0 and below 1.
        learning_rate: r, above 0.
        trainable: names of the trainable tensors.
        state: v of an earlier round to resume from; zero for a tensor that is not named.
    """

    def __init__(
        self,
        momentum: float,
        learning_rate: float,
        trainable: Collection[str],
        state: Mapping[str, Tensor] | None = None,
    ):
        self._momentum, self._learning_rate = momentum, learning_rate
        self._trainable = frozenset(trainable)
        self.state = dict(state or {})

    @property
    def has_state(self) -> bool:
        """Whether there is a velocity to keep between rounds."""
        return self._momentum > 0

    def blank(self, model: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the names, shapes and dtypes of `state` for such a model."""
        return {
            name: torch.empty_like(model[name], dtype=torch.float64, device="meta")
            for name in self._trainable
        }

    def step(self, change: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turns a round's mean change into a step of the model.

        Args:
            change: the mean change of each tensor by name.

        Returns:
            The step to add to the model, in the dtypes and shapes of `change`.
        """
        if not self.has_state and self._learning_rate == 1:
            return dict(change)
        steps = dict(change)
        for name in sorted(self._trainable & change.keys()):
            mean = change[name].to(torch.float64)
            step = mean
            if self.has_state:
                former = self.state.get(name)
                velocity = mean if former is None else self._momentum * former + mean
                self.state[name] = velocity
                step = mean + self._momentum * velocity
            steps[name] = (self._learning_rate * step).to(change[name].dtype)
        return steps
