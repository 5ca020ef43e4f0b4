"""Between a hospital's job and its process that trains: memory that both share, and one message.

Flat buffers cross from one to the other with one copy. Nothing here needs torch, so that the job's
own process does without.
"""

import mmap
import os
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

STOP = "stop"
"""Ends the work on a request, but not the process."""
_ALIGNED = 64  # bytes
Places = list[tuple[str, str, int, int]]
"""Of each buffer its key, numpy's name of its dtype, where it begins in bytes, and its elements."""


def open_memory() -> int:
    """A file descriptor of memory that grows, for a process to inherit; gone with the last user."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("consortium")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class SharedBuffers:
    """Flat buffers in memory that another process maps too.

    What is in it stands until either side puts something else there; the two take turns.

    Args:
        file: descriptor of the memory.
    """

    def __init__(self, file: int):
        self._file = file
        self._map: mmap.mmap | None = None
        self.places: Places = []

    def put(self, buffers: Mapping[str, NDArray[Any]]) -> Places:
        """Copies buffers into the memory.

        Args:
            buffers: one-dimensional, by any key.

        Returns:
            Where they lie, for the other side's `get`.
        """
        made = self.make({key: (flat.dtype.str, len(flat)) for key, flat in buffers.items()})
        for key, view in made.items():
            view[:] = buffers[key]
        return self.places

    def make(self, sizes: Mapping[str, tuple[str, int]]) -> dict[str, NDArray[Any]]:
        """Buffers in the memory to be filled; `places` is for the other side's `get`.

        Args:
            sizes: of each numpy's name of its dtype and its elements.
        """
        self.places, end = [], 0
        for key, (dtype, count) in sizes.items():
            self.places.append((key, dtype, end, count))
            end += -(-np.dtype(dtype).itemsize * count // _ALIGNED) * _ALIGNED
        if os.fstat(self._file).st_size < end:
            os.ftruncate(self._file, end)
        return self.get(self.places)

    def get(self, places: Places) -> dict[str, NDArray[Any]]:
        """The buffers that the other side put; views, to be read before it puts others."""
        return {key: self._view(dtype, start, count) for key, dtype, start, count in places}

    def close(self) -> None:
        """Lets go of the memory; views of it stand. Safe to call twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _view(self, dtype: str, start: int, count: int) -> NDArray[Any]:
        if count == 0:
            return np.empty(0, dtype)
        size = os.fstat(self._file).st_size
        if self._map is None or len(self._map) < size:
            self._map = mmap.mmap(self._file, size)  # views of the one before keep that alive
        return np.frombuffer(self._map, dtype, count, start)
