"""Measures an encoded answer before FLARE decodes it.

One byte of a message can become 70 bytes of memory, and FLARE builds the types that a message
names. So the values are counted, and the types compared, on the encoded bytes: MessagePack, in one
section, and at most one more section that says where to fetch the arrays.
"""

import re
from collections.abc import Collection, Iterable
from struct import Struct

MAX_BYTES = 16 << 20
"""Largest message: the names and shapes of the tensors, the arrays below 1 MiB, and the metrics."""
MAX_VALUES = 500_000
MAX_DEPTH = 64

_HEADER = Struct(">BBQ")  # marker, FLARE's number of the type, bytes
_MAIN, _TEXT, _BLOB = 100, 101, 102
_ID = 16  # bytes of a section's id
_MAX_TEXT = 1024
_LONG = 16
"""Values of a list from which on equal ones are looked for."""
_MAX_CHUNK_VALUES = 200  # of a message with a chunk, beside its bytes
_TYPE = b"__fobs_type__"

_FIXED = {
    **dict.fromkeys([*range(0x80), *range(0xE0, 0x100), 0xC0, 0xC2, 0xC3], 0),
    **{0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8},
}
"""Bytes after the tag of a value of fixed size."""
_SIZED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
"""Bytes of the length that follows the tag of a string or of bytes."""
_RUNS = (
    (1, re.compile(rb"[\x00-\x80\x90\xc0\xc2\xc3\xe0-\xff]{8,}")),
    (9, re.compile(rb"(?:\xcb.{8}){4,}", re.DOTALL)),
)
"""Values of one size that follow each other, such as the numbers of a list: bytes of each."""
_COUNTED = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}
"""Bytes of the count that follows the tag of an array or a map, and the values of one entry."""


class MessageRefused(ValueError):
    """A message that must not be decoded.

    Attributes:
        code: `too-many-bytes`, `too-many-values` or `malformed`.
    """

    def __init__(self, code: str, why: str):
        self.code = code
        super().__init__(why)


def check_message(message: bytes, types: Collection[str], arrays: int) -> None:
    """Checks that a message can be decoded in little memory.

    Args:
        message: as FLARE encoded it.
        types: full names of the types that it may contain.
        arrays: FLARE's number of the type of arrays that are fetched.

    Raises:
        MessageRefused: it cannot.
    """
    if len(message) > MAX_BYTES:
        raise MessageRefused("too-many-bytes", f"{len(message)} bytes")
    marker, _, size = _read_header(message, 0)
    start = _HEADER.size
    if marker != _MAIN or size > len(message) - start:
        raise MessageRefused("malformed", "no main section")
    _check_values(memoryview(message)[start : start + size], types)
    rest = len(message) - start - size
    if rest:
        marker, number, size = _read_header(message, start + size)
        # Any other section makes FLARE write a file or fetch by a codec that has no limit.
        if (marker, number) != (_TEXT, arrays) or not _ID < size < _MAX_TEXT:
            raise MessageRefused("malformed", "a section that no answer has")
        if rest != _HEADER.size + size:
            raise MessageRefused("malformed", "more than one further section")


def check_chunk(message: Iterable[bytes | memoryview], types: Collection[str]) -> None:
    """Checks that a message with a chunk of an array holds nothing else.

    Args:
        message: in parts, as it arrived; the bytes of a large chunk are not copied.
        types: full names of the types that it may contain.

    Raises:
        MessageRefused: `malformed` or `too-many-values`.
    """
    parts = list(message)
    total, head, number = sum(map(len, parts)), b"", 0

    def read_ahead(end: int) -> None:
        nonlocal head, number
        start = number
        missing = end - len(head)
        while missing > 0 and number < len(parts):
            missing -= len(parts[number])
            number += 1
        head = b"".join([head, *parts[start:number]])

    read_ahead(_HEADER.size)
    marker, _, size = _read_header(head, 0)
    start = _HEADER.size
    if marker != _MAIN or size > total - start:
        raise MessageRefused("malformed", "no main section")
    read_ahead(start + size)
    _check_values(memoryview(head)[start : start + size], types, _MAX_CHUNK_VALUES)
    rest = total - start - size
    if rest:
        read_ahead(start + size + _HEADER.size)
        marker, kind, size = _read_header(head, start + size)
        if (marker, kind) != (_BLOB, 0) or rest != _HEADER.size + size:
            raise MessageRefused("malformed", "a section that no chunk has")


def _read_header(message: bytes, start: int) -> tuple[int, int, int]:
    if len(message) < start + _HEADER.size:
        raise MessageRefused("malformed", "a section without a header")
    marker, number, size = _HEADER.unpack_from(message, start)
    return marker, number, size


def _check_values(data: memoryview, types: Collection[str], most: int = MAX_VALUES) -> None:
    """Walks over MessagePack without building anything."""
    end, at, values = len(data), 0, 0
    waiting = [1]  # values to come at each level of nesting
    allowed = {name.encode() for name in types}
    names_type = False
    while waiting:
        if not waiting[-1]:
            waiting.pop()
            continue
        if waiting[-1] > _LONG and not names_type:
            size, run = _run(data, at, waiting[-1])
            at, values, waiting[-1] = at + size * run, values + run, waiting[-1] - run
            if not waiting[-1] and values <= most:
                continue
        waiting[-1] -= 1
        values += 1
        if values > most or len(waiting) > MAX_DEPTH:
            raise MessageRefused("too-many-values", f"{values} values, {len(waiting)} levels")
        if at >= end:
            raise MessageRefused("malformed", "the message is cut off")
        at, inside, text = _step(data, at)
        if at > end or inside > end:
            raise MessageRefused("malformed", "the message is cut off")
        if names_type and text not in allowed:
            raise MessageRefused("malformed", f"the type {bytes(text or b'')[:100]!r}")
        names_type = text == _TYPE
        if inside:
            waiting.append(inside)
    if at != end:
        raise MessageRefused("malformed", "more than one value")


def _run(data: memoryview, at: int, most: int) -> tuple[int, int]:
    """Returns the size and number of the equal values that begin here."""
    for size, pattern in _RUNS:
        run = pattern.match(data, at)
        if run is not None:
            return size, min(most, (run.end() - at) // size)
    return 1, 0


def _step(data: memoryview, at: int) -> tuple[int, int, bytes | None]:
    """Reads one tag.

    Returns:
        Where the next value begins, the number of values inside this one, and a short text.
    """
    tag = data[at]
    at += 1
    if (fixed := _FIXED.get(tag)) is not None:
        return at + fixed, 0, None
    if 0xA0 <= tag < 0xC0:
        return _text(data, at, tag & 0x1F)
    if 0x80 <= tag < 0xA0:
        return at, (tag & 0x0F) * (2 if tag < 0x90 else 1), None
    if (width := _SIZED.get(tag)) is not None:
        size = int.from_bytes(data[at : at + width], "big")
        return _text(data, at + width, size)
    if tag in _COUNTED:
        width, each = _COUNTED[tag]
        return at + width, int.from_bytes(data[at : at + width], "big") * each, None
    raise MessageRefused("malformed", f"the tag {tag:#x}")


def _text(data: memoryview, at: int, size: int) -> tuple[int, int, bytes | None]:
    return at + size, 0, bytes(data[at : at + size]) if size < 200 else None
