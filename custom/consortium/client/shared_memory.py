"""Between a hospital's job and its process that trains: memory that both share, and one message.

Flat buffers cross from one to the other with one copy. Nothing here needs torch, so that
the job's own process does without.
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
        """Copies buffers into the memory, but for those that `make` gave and that lie there.

        Args:
            buffers: one-dimensional, by any key.

        Returns:
            Where they lie, for the other side's `get`.
        """
        there = [
            (key, flat.dtype.str, start, len(flat))
            for key, flat in buffers.items()
            if (start := self._find(flat)) is not None
        ]
        here = {place[0] for place in there}
        others = {key: flat for key, flat in buffers.items() if key not in here}
        end = max((start + buffers[key].nbytes for key, _, start, _ in there), default=0)
        sizes = {key: (flat.dtype.str, len(flat)) for key, flat in others.items()}
        for key, view in self.make(sizes, _align(end)).items():
            view[:] = others[key]
        self.places += there
        return self.places

    def make(self, sizes: Mapping[str, tuple[str, int]], start: int = 0) -> dict[str, NDArray[Any]]:
        """Buffers in the memory to be filled; `places` is for the other side's `get`.

        Args:
            sizes: of each numpy's name of its dtype and its elements.
            start: in bytes, where they begin.
        """
        self.places, end = [], start
        for key, (dtype, count) in sizes.items():
            self.places.append((key, dtype, end, count))
            end += _align(np.dtype(dtype).itemsize * count)
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

    def _find(self, flat: NDArray[Any]) -> int | None:
        """Where in the memory a buffer begins; None where it is elsewhere."""
        if self._map is None or flat.nbytes == 0:
            return None
        origin = np.frombuffer(self._map, np.uint8)
        start = int(flat.ctypes.data - origin.ctypes.data)
        return start if 0 <= start < len(origin) else None

    def _view(self, dtype: str, start: int, count: int) -> NDArray[Any]:
        if count == 0:
            return np.empty(0, dtype)
        size = os.fstat(self._file).st_size
        if self._map is None or len(self._map) < size:
            self._map = mmap.mmap(self._file, size)  # views of the one before keep that alive
        return np.frombuffer(self._map, dtype, count, start)


def _align(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED
