"""How arrays travel: in pieces that the receiver asks for, without a copy at the sender.

FLARE's own codec hands out an array whole, as a zipped copy for every receiver, so that a model of
one flat buffer costs the orchestrator several times its size for every hospital that fetches it at
the moment. Here a piece is a view until it is on the wire, and the receiver writes it where it
belongs. FLARE's download service does the rest: requests, tries, ends.
"""

import gc
import itertools
import json
import math
import weakref
from collections.abc import Callable, Mapping
from io import BytesIO
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray
from nvflare.fuel.f3.streaming.download_service import (
    Consumer,
    Downloadable,
    ProduceRC,
    download_object,
)
from nvflare.fuel.utils import fobs
from nvflare.fuel.utils.fobs.decomposers.via_downloader import ViaDownloaderDecomposer
from nvflare.fuel.utils.memory_utils import try_malloc_trim

AT_ONCE = 4
"""Senders whose arrays are fetched at a time, where that is limited."""
_PATIENCE = 60.0  # seconds that a sender waits for its turn at most
_NEXT = "next"
_PIECE = 10 << 20  # bytes, where the job's configuration does not say
_OFTEN, _SELDOM = 16, 64  # pieces
_DOT = 77  # FLARE's number of what arrays become in a message; its own are below 10


Make = Callable[[Mapping[str, tuple[str, int]]], dict[str, NDArray[Any]]]


def make_arrays(sizes: Mapping[str, tuple[str, int]]) -> dict[str, NDArray[Any]]:
    """Arrays in memory of their own."""
    return {name: np.empty(count, dtype) for name, (dtype, count) in sizes.items()}


_moved = itertools.count(1)


def _tidy_up() -> None:
    """Frees what FLARE keeps of every message that it sent: 1 MiB, and what it sent it from.

    It lies in circles of references, which the garbage collector ends much too late by itself. The
    C library gives back what it holds in small parts, at the price of fetching it again: seldom.
    """
    moved = next(_moved)
    if moved % _OFTEN == 0:
        gc.collect()
    if moved % _SELDOM == 0:
        try_malloc_trim()


class ArrayChunk:
    """Bytes of an array.

    Args:
        view: of them.
    """

    def __init__(self, view: memoryview | bytes):
        self.view = view

    def __len__(self) -> int:
        return len(self.view)


class _ChunkCodec(fobs.Decomposer):
    """Lets FLARE send a piece from where it lies, if it is one of 10 MiB or more."""

    def supported_type(self) -> type:
        return ArrayChunk

    def decompose(self, target: ArrayChunk, manager: Any = None) -> memoryview | bytes:
        return target.view

    def recompose(self, data: bytes, manager: Any = None) -> ArrayChunk:
        return ArrayChunk(data)


class ArrayStream(Downloadable):
    """A message's arrays for one receiver or more: what they are, then piece by piece.

    Args:
        arrays: of numbers, by FLARE's name of them in the message; not changed while they are sent.
        size: bytes of a piece; more, below twice as many, where they do not go up evenly.

    Raises:
        TypeError: an array is not of numbers.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]], size: int):
        super().__init__(arrays)
        if any(array.dtype.kind not in "biufc" for array in arrays.values()):
            raise TypeError("only arrays of numbers travel")
        self._contents = json.dumps(
            [(name, array.dtype.str, array.shape) for name, array in arrays.items()]
        ).encode()
        self._views: list[memoryview] | None = []
        for array in arrays.values():
            flat = _bytes_of(np.ascontiguousarray(array)).data
            # Alike, so that none is below what FLARE sends without a copy.
            step = -(-len(flat) // max(1, len(flat) // size))
            self._views += [flat[start : start + step] for start in range(0, len(flat), step or 1)]

    def produce(
        self, state: dict[str, int] | None, requester: str
    ) -> tuple[str, list[ArrayChunk] | None, dict[str, int]]:
        """The contents at first, and then a piece; see `Downloadable`."""
        number = state[_NEXT] if state else 0
        views = self._views
        if views is None:
            raise RuntimeError("the arrays are gone")
        _tidy_up()
        if number > len(views):
            return ProduceRC.EOF, None, {}
        piece = ArrayChunk(views[number - 1] if number else self._contents)
        return ProduceRC.OK, [piece], {_NEXT: number + 1}

    def release(self) -> None:
        """Lets go of the arrays."""
        self.base_obj = self._views = None


class ArrayAssembler(Consumer):
    """Puts pieces together.

    Args:
        limit: bytes that all arrays may take together; whoever sends more is not believed.
        make: gives flat arrays by name, for a dtype and a number of elements of each.

    Attributes:
        arrays: by name; whole once the download has completed without an error.
        error: what went wrong, or empty.
    """

    supports_pipelining = True

    def __init__(self, limit: float = math.inf, make: Make = make_arrays):
        super().__init__()
        self._make = make
        self.arrays: dict[str, NDArray[Any]] | None = None
        self.error = ""
        self._limit = limit
        self._rest: list[NDArray[np.uint8]] = []

    def consume(self, ref_id: str, state: dict[str, int], data: list[ArrayChunk]) -> dict[str, int]:
        """Takes what `ArrayStream.produce` gave.

        Raises:
            ValueError: it does not fit what was announced, or is more than the limit.
        """
        [piece] = data
        _tidy_up()
        if self.arrays is None:
            self._announce(json.loads(bytes(piece.view)))
            return state
        if not self._rest or len(piece) > len(self._rest[0]):
            raise ValueError("more than was announced")
        # By numpy, which lets other threads run meanwhile, as a memoryview does not.
        self._rest[0][: len(piece)] = np.frombuffer(piece.view, np.uint8)
        self._rest[0] = self._rest[0][len(piece) :]
        self._rest = self._rest[not len(self._rest[0]) :]
        return state

    def _announce(self, contents: list[tuple[str, str, list[int]]]) -> None:
        kinds = {name: (np.dtype(dtype), tuple(shape)) for name, dtype, shape in contents}
        if any(dtype.kind not in "biufc" for dtype, _ in kinds.values()):
            raise ValueError("not of numbers")
        total = sum(dtype.itemsize * _count(shape) for dtype, shape in kinds.values())
        if total > self._limit:
            raise ValueError(f"{total} bytes where {self._limit:.0f} are the most")
        flats = self._make(
            {name: (dtype.str, _count(shape)) for name, (dtype, shape) in kinds.items()}
        )
        self.arrays = {name: flats[name].reshape(kinds[name][1]) for name in kinds}
        self._rest = [flat for flat in map(_bytes_of, self.arrays.values()) if len(flat)]

    def download_completed(self, ref_id: str) -> None:
        """Sees whether all has come."""
        if self.arrays is None or self._rest:
            self.download_failed(ref_id, "less than was announced")

    def download_failed(self, ref_id: str, reason: str) -> None:
        """Nothing is left of it but the reason."""
        self.error, self.arrays, self._rest = reason, None, []


def _bytes_of(array: NDArray[Any]) -> NDArray[np.uint8]:
    return array.reshape(-1).view(np.uint8)


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for side in shape:
        if type(side) is not int or side < 0:
            raise ValueError("no shape")
        count *= side
    return count


class StreamedArray:
    """An array as it stands in a message; FLARE does not copy it, so that nobody may change it.

    Attributes:
        array: of numbers.
    """

    def __init__(self, array: NDArray[Any]):
        self.array = array

    def __deepcopy__(self, memo: Any) -> "StreamedArray":
        return self


class _StreamedArrayCodec(ViaDownloaderDecomposer):
    """Lets a receiver fetch arrays, and fetches them from only so many senders at a time.

    A sender's turn lasts until its arrays are gone from memory here.
    """

    turns: SimpleQueue[None] | None = None
    limit: float = math.inf
    make: Make = make_arrays

    def __init__(self) -> None:
        super().__init__(_PIECE, "np_")

    def supported_type(self) -> type:
        return StreamedArray

    def get_download_dot(self) -> int:
        return _DOT

    def to_downloadable(
        self, items: Mapping[str, StreamedArray], size: int, fobs_ctx: Any
    ) -> ArrayStream:
        return ArrayStream({name: flat.array for name, flat in items.items()}, size)

    def download(
        self, from_fqcn: str, ref_id: str, **more: Any
    ) -> tuple[str, dict[str, StreamedArray] | None]:
        def fetch() -> tuple[str, dict[str, NDArray[Any]] | None]:
            found = ArrayAssembler(self.limit, type(self).make)
            download_object(from_fqcn=from_fqcn, ref_id=ref_id, consumer=found, **more)
            return found.error, found.arrays

        error, arrays = fetch() if self.turns is None else _in_turn(fetch, self.turns)
        if arrays is None:
            return error, None
        return error, {name: StreamedArray(array) for name, array in arrays.items()}

    def native_decompose(self, target: StreamedArray, manager: Any = None) -> bytes:
        stream = BytesIO()
        np.save(stream, target.array, allow_pickle=False)
        return stream.getvalue()

    def native_recompose(self, data: bytes, manager: Any = None) -> StreamedArray:
        return StreamedArray(np.load(BytesIO(data), allow_pickle=False))


def _in_turn(
    fetch: Callable[[], tuple[str, dict[str, NDArray[Any]] | None]], turns: SimpleQueue[None]
) -> tuple[str, dict[str, NDArray[Any]] | None]:
    give_back: Callable[[None], None] = turns.put
    try:
        turns.get(timeout=_PATIENCE)
    except Empty:  # those whose turn it is are stuck: rather more memory than no round
        give_back = _keep
    left = [None]
    try:
        error, arrays = fetch()
        for array in (arrays or {}).values():
            left.append(None)
            weakref.finalize(array, _one_less, left, give_back)
        return error, arrays
    finally:
        _one_less(left, give_back)


def _one_less(left: list[None], give_back: Callable[[None], None]) -> None:
    left.pop()
    if not left:
        give_back(None)


def _keep(turn: None) -> None:
    """There is no turn to give back."""


def register_arrays() -> None:
    """Lets FLARE carry numpy arrays in pieces; both ends of a job's channel need it."""
    fobs.register(_ChunkCodec)
    fobs.register(_StreamedArrayCodec)


def fetch_few_at_a_time() -> None:
    """Fetches the arrays of `AT_ONCE` senders at a time, for who lets go of each after a look."""
    turns: SimpleQueue[None] = SimpleQueue()
    for _ in range(AT_ONCE):
        turns.put(None)
    _StreamedArrayCodec.turns = turns


def place_arrays(make: Make) -> None:
    """Puts what is fetched into memory that is given, from one message to the next."""
    _StreamedArrayCodec.make = staticmethod(make)


def limit_arrays(limit: int) -> None:
    """Believes no sender that announces more bytes than this."""
    _StreamedArrayCodec.limit = limit
