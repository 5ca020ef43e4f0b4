"""The mean of a run's last models, which varies less than any single model.

Stochastic weight averaging (Izmailov et al., UAI 2018, section 3.2) over rounds instead of epochs.
Use it if no patients can be set aside to select a round; it needs no score. Batch-norm statistics
are averaged like weights, which is valid while the averaged models are close.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


class ModelAverage:
    """A running mean in double precision; models are added in the order of their rounds.

    Attributes:
        count: number of models added.
        sums: sum of each floating-point tensor, float64; the last value of every other tensor.
    """

    def __init__(self, count: int = 0, sums: Mapping[str, Tensor] | None = None):
        self.count, self.sums = count, dict(sums or {})

    def add(self, model: Mapping[str, Tensor]) -> None:
        """Adds a model; keeps no reference to its tensors."""
        for name, tensor in model.items():
            value = tensor.detach().cpu()
            if not value.is_floating_point():
                self.sums[name] = value.clone()
            elif self.count:
                self.sums[name] = self.sums[name] + value
            else:
                self.sums[name] = value.to(torch.float64, copy=True)
        self.count += 1

    def mean(self, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the mean, in the dtypes and order of `like`.

        Raises:
            ZeroDivisionError: nothing was added.
        """
        if not self.count:
            raise ZeroDivisionError("the mean of no models")
        return {
            name: (self.sums[name] / self.count if tensor.is_floating_point() else self.sums[name])
            .to(tensor.dtype)
            .contiguous()
            for name, tensor in like.items()
        }

    @staticmethod
    def blank(model: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the names, shapes and dtypes of `sums` for such a model."""
        return {
            name: torch.empty_like(tensor, dtype=torch.float64, device="meta")
            if tensor.is_floating_point()
            else tensor
            for name, tensor in model.items()
        }
