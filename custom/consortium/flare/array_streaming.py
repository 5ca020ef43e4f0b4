"""Streams arrays in chunks that the receiver requests, without a copy at the sender.

FLARE's own codec sends an array whole, as a zipped copy for every receiver, so that a model of one
flat buffer costs the orchestrator several times its size for every hospital that is fetching it.
Here a chunk is a view until it is on the wire, and the receiver writes it to its final location.
FLARE's download service does the rest: requests, retries, ends.
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

from consortium.core.json_files import parse_json
from consortium.protocol.buffers import BufferFactory, make_buffers

AT_ONCE = 4
"""Senders whose arrays are fetched at a time, if that is limited."""
TURN_TIMEOUT = 60.0  # seconds that a sender waits for its turn at most
_NEXT = "next"
_CHUNK = 10 << 20  # bytes, unless the job's configuration sets it
MOST_CHUNK = 2 * _CHUNK + (1 << 20)
"""Largest message with one chunk, in bytes."""
_COLLECT_EVERY, _TRIM_EVERY = 16, 64  # chunks
_MOST_CONTENTS = 1 << 16  # bytes of the names and shapes of a message's arrays
ARRAYS = 77
"""FLARE's number for the type of arrays in a message; its own are below 10."""


_moved = itertools.count(1)


def _tidy_up() -> None:
    """Frees what FLARE keeps of every message that it sent: 1 MiB, and the sent buffer.

    It lies in reference cycles, which the garbage collector by itself frees much too late. Trimming
    the C library's heap is done more rarely, because the memory must be allocated again.
    """
    moved = next(_moved)
    if moved % _COLLECT_EVERY == 0:
        gc.collect()
    if moved % _TRIM_EVERY == 0:
        try_malloc_trim()


class ArrayChunk:
    """A chunk of an array.

    Args:
        view: of its bytes.
    """

    def __init__(self, view: memoryview | bytes):
        self.view = view

    def __len__(self) -> int:
        return len(self.view)


class _ChunkCodec(fobs.Decomposer):
    """Lets FLARE send a chunk without a copy, if it has 10 MiB or more."""

    def supported_type(self) -> type:
        return ArrayChunk

    def decompose(self, target: ArrayChunk, manager: Any = None) -> memoryview | bytes:
        return target.view

    def recompose(self, data: bytes, manager: Any = None) -> ArrayChunk:
        return ArrayChunk(data)


class ArrayStream(Downloadable):
    """A message's arrays for one or more receivers: first their names and shapes, then the chunks.

    Args:
        arrays: numeric, by FLARE's name of them in the message; not changed while they are sent.
        size: bytes of a chunk; up to twice as many if an array does not divide evenly.

    Raises:
        TypeError: an array is not numeric.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]], size: int):
        super().__init__(arrays)
        if any(array.dtype.kind not in "biufc" for array in arrays.values()):
            raise TypeError("only numeric arrays can be sent")
        self._contents = json.dumps(
            [(name, array.dtype.str, array.shape) for name, array in arrays.items()]
        ).encode()
        self._views: list[memoryview] | None = []
        for array in arrays.values():
            flat = _bytes_of(np.ascontiguousarray(array)).data
            # Chunks of equal size, so that none is below what FLARE sends without a copy.
            step = -(-len(flat) // max(1, len(flat) // size))
            self._views += [flat[start : start + step] for start in range(0, len(flat), step or 1)]

    def produce(
        self, state: dict[str, int] | None, requester: str
    ) -> tuple[str, list[ArrayChunk] | None, dict[str, int]]:
        """Returns the contents at first, then a chunk each time; see `Downloadable`."""
        number = state[_NEXT] if state else 0
        views = self._views
        if views is None:
            raise RuntimeError("the arrays were released")
        _tidy_up()
        if number > len(views):
            return ProduceRC.EOF, None, {}
        chunk = ArrayChunk(views[number - 1] if number else self._contents)
        return ProduceRC.OK, [chunk], {_NEXT: number + 1}

    def release(self) -> None:
        """Releases the arrays."""
        self.base_obj = self._views = None


class ArrayAssembler(Consumer):
    """Assembles arrays from chunks.

    Args:
        limit: bytes that all arrays may take together; transfers that declare more are rejected.
        make: allocates flat arrays by name, given the dtype and number of elements of each.

    Attributes:
        arrays: by name; complete once the download has completed without an error.
        error: what went wrong, or empty.
        too_large: whether more bytes were declared or sent than allowed.
    """

    supports_pipelining = True

    def __init__(self, limit: float = math.inf, make: BufferFactory = make_buffers):
        super().__init__()
        self._make = make
        self.arrays: dict[str, NDArray[Any]] | None = None
        self.error = ""
        self.too_large = False
        self._limit = limit
        self._rest: list[NDArray[np.uint8]] = []

    def consume(self, ref_id: str, state: dict[str, int], data: list[ArrayChunk]) -> dict[str, int]:
        """Consumes what `ArrayStream.produce` returned.

        Raises:
            ValueError: it does not match the declaration, or exceeds the limit.
        """
        [chunk] = data
        _tidy_up()
        if not len(chunk):
            raise ValueError("an empty chunk")  # they could follow each other for ever
        if self.arrays is None:
            if len(chunk) > _MOST_CONTENTS:
                raise ValueError(f"{len(chunk)} bytes of names and shapes")
            self._allocate(parse_json(bytes(chunk.view)))
            return state
        if not self._rest or len(chunk) > len(self._rest[0]):
            self.too_large = True
            raise ValueError("more bytes than declared")
        # numpy lets other threads run during the copy; a memoryview does not.
        self._rest[0][: len(chunk)] = np.frombuffer(chunk.view, np.uint8)
        self._rest[0] = self._rest[0][len(chunk) :]
        self._rest = self._rest[not len(self._rest[0]) :]
        return state

    def _allocate(self, contents: list[tuple[str, str, list[int]]]) -> None:
        specs = {name: (np.dtype(dtype), tuple(shape)) for name, dtype, shape in contents}
        if any(dtype.kind not in "biufc" for dtype, _ in specs.values()):
            raise ValueError("the arrays are not numeric")
        total = sum(dtype.itemsize * _count(shape) for dtype, shape in specs.values())
        if total > self._limit:
            self.too_large = True
            raise ValueError(f"{total} bytes exceed the limit of {self._limit:.0f}")
        flats = self._make(
            {name: (dtype.str, _count(shape)) for name, (dtype, shape) in specs.items()}
        )
        self.arrays = {name: flats[name].reshape(specs[name][1]) for name in specs}
        self._rest = [flat for flat in map(_bytes_of, self.arrays.values()) if len(flat)]

    def download_completed(self, ref_id: str) -> None:
        """Checks that all declared bytes have arrived."""
        if self.arrays is None or self._rest:
            self.download_failed(ref_id, "fewer bytes than declared")

    def download_failed(self, ref_id: str, reason: str) -> None:
        """Discards the arrays and keeps the reason."""
        self.error, self.arrays, self._rest = reason, None, []


def _bytes_of(array: NDArray[Any]) -> NDArray[np.uint8]:
    return array.reshape(-1).view(np.uint8)


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for side in shape:
        if type(side) is not int or side < 0:
            raise ValueError("not a shape")
        count *= side
    return count


class StreamedArray:
    """An array in a message. FLARE does not copy it, so it must not be changed.

    Attributes:
        array: numeric.
    """

    def __init__(self, array: NDArray[Any]):
        self.array = array

    def __deepcopy__(self, memo: Any) -> "StreamedArray":
        return self


class _StreamedArrayCodec(ViaDownloaderDecomposer):
    """Lets a receiver fetch arrays, from a limited number of senders at a time.

    A sender's turn lasts until its arrays are freed here.
    """

    turns: SimpleQueue[None] | None = None
    limit: float = math.inf
    make: BufferFactory = make_buffers

    def __init__(self) -> None:
        super().__init__(_CHUNK, "np_")

    def supported_type(self) -> type:
        return StreamedArray

    def get_download_dot(self) -> int:
        return ARRAYS

    def to_downloadable(
        self, items: Mapping[str, StreamedArray], size: int, fobs_ctx: Any
    ) -> ArrayStream:
        return ArrayStream({name: flat.array for name, flat in items.items()}, size)

    def download(
        self, from_fqcn: str, ref_id: str, **more: Any
    ) -> tuple[str, dict[str, StreamedArray] | None]:
        fetched = fetch_arrays(from_fqcn=from_fqcn, ref_id=ref_id, **more)
        if fetched.arrays is None:
            return fetched.error, None
        return "", {name: StreamedArray(array) for name, array in fetched.arrays.items()}

    def native_decompose(self, target: StreamedArray, manager: Any = None) -> bytes:
        stream = BytesIO()
        np.save(stream, target.array, allow_pickle=False)
        return stream.getvalue()

    def native_recompose(self, data: bytes, manager: Any = None) -> StreamedArray:
        return StreamedArray(np.load(BytesIO(data), allow_pickle=False))


def fetch_arrays(**source: Any) -> ArrayAssembler:
    """Fetches the arrays of a message, within the limits that this process has set.

    Args:
        source: see `nvflare.fuel.f3.streaming.download_service.download_object`.

    Returns:
        The arrays, or what went wrong.
    """

    def fetch() -> ArrayAssembler:
        assembler = ArrayAssembler(_StreamedArrayCodec.limit, _StreamedArrayCodec.make)
        download_object(consumer=assembler, **source)
        return assembler

    turns = _StreamedArrayCodec.turns
    return fetch() if turns is None else _in_turn(fetch, turns)


def _in_turn(fetch: Callable[[], ArrayAssembler], turns: SimpleQueue[None]) -> ArrayAssembler:
    give_back: Callable[[None], None] = turns.put
    try:
        turns.get(timeout=TURN_TIMEOUT)
    except Empty:  # the other senders are stuck: more memory is better than no round
        give_back = _give_back_nothing
    references = [None]
    try:
        fetched = fetch()
        for array in (fetched.arrays or {}).values():
            references.append(None)
            weakref.finalize(array, _drop_reference, references, give_back)
        return fetched
    finally:
        _drop_reference(references, give_back)


def _drop_reference(references: list[None], give_back: Callable[[None], None]) -> None:
    references.pop()
    if not references:
        give_back(None)


def _give_back_nothing(turn: None) -> None:
    """Does nothing: there is no turn to give back."""


def register_arrays() -> None:
    """Lets FLARE send numpy arrays in chunks; both ends of a job's channel need it."""
    fobs.register(_ChunkCodec)
    fobs.register(_StreamedArrayCodec)


def limit_senders() -> None:
    """Limits concurrent downloads to `AT_ONCE` senders.

    It is for rules that release each update once it is summed.
    """
    turns: SimpleQueue[None] = SimpleQueue()
    for _ in range(AT_ONCE):
        turns.put(None)
    _StreamedArrayCodec.turns = turns


def allocate_arrays_by(make: BufferFactory) -> None:
    """Sets the allocator of the memory that arrays of later messages are fetched into."""
    _StreamedArrayCodec.make = staticmethod(make)


def limit_arrays(limit: int) -> None:
    """Rejects transfers that declare more than `limit` bytes."""
    _StreamedArrayCodec.limit = limit
