"""Between a hospital's job and its process that trains: memory that both share, and one message.

Flat buffers cross from one to the other with one copy.
"""

import mmap
import os
import tempfile
from collections.abc import Mapping

import torch
from torch import Tensor

STOP = "stop"
"""Ends the work on a request, but not the process."""
_ALIGNED = 64  # bytes
Places = list[tuple[str, int, int]]
"""Of each buffer its name, which is its dtype, where it begins in bytes, and its elements."""


def open_memory() -> int:
    """A file descriptor of memory that grows, for a process to inherit; gone with the last user."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("consortium")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class SharedBuffers:
    """One buffer a dtype, in memory that another process maps too.

    What is in it stands until either side puts something else there; the two take turns.

    Args:
        file: descriptor of the memory.
    """

    def __init__(self, file: int):
        self._file = file
        self._map: mmap.mmap | None = None

    def put(self, buffers: Mapping[str, Tensor]) -> Places:
        """Copies buffers into the memory.

        Args:
            buffers: flat, by the name of their dtype.

        Returns:
            Where they lie, for the other side's `get`.
        """
        places, end = [], 0
        for dtype, buffer in buffers.items():
            places.append((dtype, end, buffer.numel()))
            end += -(-buffer.nbytes // _ALIGNED) * _ALIGNED
        if os.fstat(self._file).st_size < end:
            os.ftruncate(self._file, end)
        for (_, start, count), buffer in zip(places, buffers.values(), strict=True):
            if count:
                self._view(buffer.dtype, start, count).copy_(buffer)
        return places

    def get(self, places: Places) -> dict[str, Tensor]:
        """The buffers that the other side put; views, to be read before it puts others."""
        found = {}
        for dtype, start, count in places:
            kind: torch.dtype = getattr(torch, dtype)
            empty = torch.empty(0, dtype=kind)
            found[dtype] = self._view(kind, start, count) if count else empty
        return found

    def close(self) -> None:
        """Lets go of the memory; views of it stand."""
        os.close(self._file)

    def _view(self, dtype: torch.dtype, start: int, count: int) -> Tensor:
        size = os.fstat(self._file).st_size
        if self._map is None or len(self._map) < size:
            self._map = mmap.mmap(self._file, size)  # views of the one before keep that alive
        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=start)
