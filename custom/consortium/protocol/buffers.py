"""The wire form of tensors, without torch: one flat buffer a dtype, and what lies in it.

One flat buffer a dtype travels faster than many small tensors. The buffers are numpy's, so that the
process that carries them at a hospital needs no torch.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Contents = list[tuple[str, str, list[int]]]
"""Name, dtype and shape of each tensor, in the order in which they lie in the buffers."""
Buffers = dict[str, NDArray[Any]]
"""A flat buffer for each dtype, by torch's name of it."""
Sizes = dict[str, tuple[str, int]]
"""For each buffer, numpy's name of its dtype and the number of its elements."""
Make = Callable[[Sizes], Buffers]
"""Gives buffers to fill."""


def make_buffers(sizes: Sizes) -> Buffers:
    """Buffers in memory of their own."""
    return {key: np.empty(count, dtype) for key, (dtype, count) in sizes.items()}
