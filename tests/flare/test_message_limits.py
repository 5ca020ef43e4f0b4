"""Messages are measured before they are decoded."""

import struct
import tracemalloc

import msgpack
import pytest
from nvflare.fuel.utils import fobs
from tests.flare.answers import encode, make_answer

from consortium.flare.array_streaming import ARRAYS, ArrayChunk, register_arrays
from consortium.flare.server.message_limits import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_VALUES,
    MessageRefused,
    check_chunk,
    check_message,
)

TYPES = (
    "nvflare.apis.shareable.Shareable",
    "nvflare.apis.fl_context.FLContext",
    "nvflare.apis.dxo.DataKind",
    "tuple",
)


def section(body, marker=100, number=0, size=None):
    return struct.pack(">BBQ", marker, number, len(body) if size is None else size) + body


def code_of(message):
    with pytest.raises(MessageRefused) as refused:
        check_message(message, TYPES, ARRAYS)
    return refused.value.code


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        *(0, -1, -33, 127, 128, 2**16, 2**32, -(2**15), -(2**31), -(2**63), 2**63),
        0.5,
        "",
        "a" * 31,
        "a" * 32,
        "a" * 256,
        "a" * 2**16,
        b"",
        bytes(256),
        bytes(2**16),
        [],
        [[1], []] * 8,
        [0] * 2**16,
        {},
        {"a": {"b": [1, {"c": 2}]}},
        {str(k): k for k in range(20)},
        {str(k): k for k in range(2**16)},
    ],
)
def test_every_form_of_value_is_measured_exactly(value):
    body = msgpack.packb(value)
    check_message(section(body), TYPES, ARRAYS)
    assert code_of(section(body + b"\xc0")) == "malformed"
    if len(body) > 1:
        assert code_of(section(body[:-1])) == "malformed"


def test_an_answer_passes():
    check_message(encode(make_answer()), TYPES, ARRAYS)


def test_a_float32_is_a_value():
    check_message(section(msgpack.packb([1.5], use_single_float=True)), TYPES, ARRAYS)


def test_what_is_too_large_deep_or_many_is_refused_without_the_memory_that_it_would_take():
    nested = []
    for _ in range(MAX_DEPTH):
        nested = [nested]
    assert code_of(section(msgpack.packb(nested))) == "too-many-values"
    assert code_of(section(b"\x91" * 10**6 + b"\xc0")) == "too-many-values"
    assert code_of(section(b"\xdd\x00\xf0\x00\x00" + b"\x90" * 0xF00000)) == "too-many-values"
    assert code_of(bytes(MAX_BYTES + 1)) == "too-many-bytes"
    many = section(msgpack.packb([[]] * (MAX_VALUES - 1)))
    tracemalloc.start()
    check_message(many, TYPES, ARRAYS)
    assert code_of(section(msgpack.packb([[]] * MAX_VALUES))) == "too-many-values"
    assert tracemalloc.get_traced_memory()[1] < 12 * 2**20  # of which 8 MiB are the test's list
    tracemalloc.stop()


@pytest.mark.parametrize("tag", [0xC1, 0xC7, 0xC8, 0xC9, 0xD4, 0xD8])
def test_values_that_flare_does_not_send_are_refused(tag):
    assert code_of(section(bytes([tag]) + bytes(20))) == "malformed"


@pytest.mark.parametrize("body", [b"", b"\xdd\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xcb"])
def test_a_declared_length_that_is_not_there_is_refused(body):
    assert code_of(section(body)) == "malformed"


@pytest.mark.parametrize(
    "type_name", ["collections.deque", "nvflare.apis.fl_snapshot.RunSnapshot", "x" * 500, 7]
)
def test_types_that_no_answer_has_are_refused(type_name):
    body = msgpack.packb({"__fobs_type__": type_name, "__fobs_data__": {}})
    assert code_of(section(body)) == "malformed"


REFERENCE = bytes(16) + b'{"fqcn": "valley.job", "ref_id": "1"}'


def test_one_further_section_may_name_the_arrays_and_nothing_else():
    main = section(msgpack.packb({}))
    check_message(main + section(REFERENCE, 101, ARRAYS), TYPES, ARRAYS)
    for rest in (
        section(REFERENCE, 101, 3),  # FLARE's own codecs fetch without a limit
        section(REFERENCE, 101, 0),
        section(REFERENCE, 102, ARRAYS),
        section(REFERENCE, 103, ARRAYS),  # FLARE writes a file
        section(bytes(2000), 101, ARRAYS),
        section(REFERENCE, 101, ARRAYS) * 2,
        section(REFERENCE, 101, ARRAYS, size=500),
        b"\x65",
    ):
        assert code_of(main + rest) == "malformed"
    assert code_of(section(REFERENCE, 101, ARRAYS)) == "malformed"
    assert code_of(b"") == "malformed"


CHUNK_TYPES = (
    "consortium.flare.array_streaming.ArrayChunk",
    "nvflare.fuel.utils.fobs.datum.DatumRef",
)


def chunk(size, **more):
    register_arrays()
    return fobs.dumps(
        {"status": "ok", "state": {"next": 2}, "data": [ArrayChunk(bytes(size))], **more}
    )


@pytest.mark.parametrize("size", [1, 2**20, 10 * 2**20, 20 * 2**20])
@pytest.mark.parametrize("part", [1 << 20, 17])
def test_a_chunk_passes_in_whatever_parts_it_arrives(size, part):
    message = chunk(size)
    head = [message[at : at + part] for at in range(0, 2000, part)]
    check_chunk([*head, message[len(head) * part :]], CHUNK_TYPES)
    check_chunk([message], CHUNK_TYPES)
    for wrong in ([message[:-1]], [message, b"x"], [], [message[:5]]):
        with pytest.raises(MessageRefused):
            check_chunk(wrong, CHUNK_TYPES)


@pytest.mark.parametrize("more", [[[]] * 200, {"a": {"__fobs_type__": "x", "__fobs_data__": 1}}])
def test_a_chunk_with_anything_else_is_refused(more):
    with pytest.raises(MessageRefused):
        check_chunk([chunk(9, more=more)], CHUNK_TYPES)


def test_a_chunk_names_no_arrays_and_no_file():
    main = section(msgpack.packb({}))
    for rest in (section(REFERENCE, 101, ARRAYS), section(REFERENCE, 103), section(b"", 102, 9)):
        with pytest.raises(MessageRefused):
            check_chunk([main + rest], CHUNK_TYPES)
