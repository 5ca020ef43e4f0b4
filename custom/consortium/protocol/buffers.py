"""The wire form of tensors, without torch: one flat buffer a dtype, and a list of its contents.

One flat buffer a dtype travels faster than many small tensors. The buffers are numpy arrays, so the
process that sends them at a hospital needs no torch.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Contents = list[tuple[str, str, list[int]]]
"""Name, dtype and shape of each tensor, in the order of the buffers."""
Buffers = dict[str, NDArray[Any]]
"""A flat buffer for each dtype, by torch's name of the dtype."""
Sizes = dict[str, tuple[str, int]]
"""For each buffer, numpy's name of its dtype and its number of elements."""
BufferFactory = Callable[[Sizes], Buffers]
"""Allocates buffers."""


def make_buffers(sizes: Sizes) -> Buffers:
    """Allocates buffers in ordinary memory."""
    return {key: np.empty(count, dtype) for key, (dtype, count) in sizes.items()}
