"""Memory that a hospital's job and its trainer process share, and one message.

Passing flat buffers costs one copy. Nothing here needs torch, so that the job's own process does
without it.
"""

import mmap
import os
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

STOP = "stop"
"""Message that ends the work on a request, but not the process."""
_ALIGNED = 64  # bytes
Locations = list[tuple[str, str, int, int]]
"""For each buffer its key, numpy's name of its dtype, its offset in bytes, its number of elements.
"""


def open_memory() -> int:
    """Opens growable memory as a file descriptor to inherit; it is freed with its last user."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("consortium")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class SharedBuffers:
    """Flat buffers in memory that another process maps too.

    The content stays until either side puts something else there; the two take turns.

    Args:
        file: descriptor of the memory.

    Attributes:
        locations: of the buffers last put or made.
    """

    def __init__(self, file: int):
        self._file = file
        self._map: mmap.mmap | None = None
        self.locations: Locations = []

    def put(self, buffers: Mapping[str, NDArray[Any]]) -> Locations:
        """Copies buffers into the memory, except those from `make`, which are already there.

        Args:
            buffers: one-dimensional, by any key.

        Returns:
            Their locations, for the other side's `get`.
        """
        present = [
            (key, flat.dtype.str, start, len(flat))
            for key, flat in buffers.items()
            if (start := self._find(flat)) is not None
        ]
        present_keys = {key for key, *_ in present}
        absent = {key: flat for key, flat in buffers.items() if key not in present_keys}
        end = max((start + buffers[key].nbytes for key, _, start, _ in present), default=0)
        sizes = {key: (flat.dtype.str, len(flat)) for key, flat in absent.items()}
        for key, view in self.make(sizes, _align(end)).items():
            view[:] = absent[key]
        self.locations += present
        return self.locations

    def make(self, sizes: Mapping[str, tuple[str, int]], start: int = 0) -> dict[str, NDArray[Any]]:
        """Makes buffers in the memory to be filled; `locations` is for the other side's `get`.

        Args:
            sizes: numpy's name of the dtype and the number of elements, by key.
            start: offset in bytes of the first one.
        """
        self.locations, end = [], start
        for key, (dtype, count) in sizes.items():
            self.locations.append((key, dtype, end, count))
            end += _align(np.dtype(dtype).itemsize * count)
        if os.fstat(self._file).st_size < end:
            os.ftruncate(self._file, end)
        return self.get(self.locations)

    def get(self, locations: Locations) -> dict[str, NDArray[Any]]:
        """Returns views of the buffers that the other side put; read them before it puts others."""
        return {key: self._view(dtype, start, count) for key, dtype, start, count in locations}

    def close(self) -> None:
        """Closes the memory; views of it stay valid. Safe to call twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _find(self, flat: NDArray[Any]) -> int | None:
        """Returns a buffer's offset in the memory, or None if it is elsewhere."""
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
            self._map = mmap.mmap(self._file, size)  # views keep the previous map alive
        return np.frombuffer(self._map, dtype, count, start)


def _align(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED
