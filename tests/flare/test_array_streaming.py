"""Arrays in chunks: the receiver assembles what the sender streams, or rejects it."""

import copy
import gc
import json
import threading
import weakref

import numpy as np
import pytest
from nvflare.fuel.f3.streaming.download_service import ProduceRC
from nvflare.fuel.utils import fobs

from consortium.flare import array_streaming
from consortium.flare.array_streaming import ArrayAssembler, ArrayChunk, ArrayStream, StreamedArray
from consortium.protocol.buffers import make_buffers

ARRAYS = {
    "T0": np.arange(10, dtype=np.float32),
    "T1": np.zeros((0, 3), np.int64),
    "T2": np.arange(6, dtype=np.int16).reshape(2, 3).T,
    "T3": np.float64(7.5).reshape(()),
}


def fetch(source, target):
    """Imitates FLARE's download service and returns the sizes of the transferred chunks."""
    state, sizes = None, []
    while True:
        code, data, new = source.produce(state, "north")
        if code == ProduceRC.EOF:
            target.download_completed("ref")
            return sizes
        data = fobs.loads(fobs.dumps(data))
        sizes.append(sum(map(len, data)))
        state = target.consume("ref", new, data)
        assert state == new


@pytest.fixture(autouse=True)
def codec(monkeypatch):
    array_streaming.register_arrays()
    # Resets what a job in this process may have set.
    monkeypatch.setattr(array_streaming._StreamedArrayCodec, "turns", None)
    monkeypatch.setattr(array_streaming._StreamedArrayCodec, "limit", float("inf"))
    monkeypatch.setattr(array_streaming._StreamedArrayCodec, "make", staticmethod(make_buffers))


@pytest.mark.parametrize("size", [1, 8, 16, 1000])
def test_assembled_arrays_equal_the_streamed_ones(size):
    source, target = ArrayStream(ARRAYS, size), ArrayAssembler()
    sizes = fetch(source, target)
    assert max(sizes[1:]) == {1: 1, 8: 12, 16: 20, 1000: 40}[size]
    assert target.error == ""
    assert target.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert target.arrays[name].dtype == array.dtype
        assert np.array_equal(target.arrays[name], array)
        assert target.arrays[name].flags.writeable


def test_a_chunk_may_be_requested_again():
    source = ArrayStream(ARRAYS, 8)
    first = source.produce({"next": 2}, "north")
    assert bytes(first[1][0].view) == bytes(source.produce({"next": 2}, "south")[1][0].view)


def test_a_chunk_is_no_copy_and_a_released_array_is_freed():
    array = np.zeros(8, np.uint8)
    source = ArrayStream({"T0": array}, 8)
    [piece] = source.produce({"next": 1}, "north")[1]
    array[3] = 9
    assert piece.view[3] == 9
    source.release()
    with pytest.raises(RuntimeError, match="released"):
        source.produce({"next": 1}, "north")


@pytest.mark.parametrize("array", [np.array([{}]), np.array(["a"]), np.zeros(2, "i4,i4")])
def test_only_numeric_arrays_are_sent(array):
    with pytest.raises(TypeError, match="numeric"):
        ArrayStream({"T0": array}, 8)


def announce(*contents):
    return [ArrayChunk(json.dumps(contents).encode())]


@pytest.mark.parametrize(
    "contents",
    [
        ("T0", "|O", [1]),
        ("T0", "<f4", [-1]),
        ("T0", "<f4", [1.5]),
        ("T0", "<f4", [True]),
        ("T0", "<f4", [9]),
        ("T0", "nothing", [1]),
        ("T0", "<f4"),
    ],
)
def test_impossible_or_too_large_declarations_are_rejected(contents):
    with pytest.raises((ValueError, TypeError)):
        ArrayAssembler(limit=32).consume("ref", {"next": 1}, announce(contents))


def test_more_bytes_than_declared_are_rejected():
    target = ArrayAssembler()
    target.consume("ref", {"next": 1}, announce(("T0", "<f4", [2])))
    with pytest.raises(ValueError, match="more"):
        target.consume("ref", {"next": 2}, [ArrayChunk(bytes(9))])
    target.consume("ref", {"next": 2}, [ArrayChunk(bytes(8))])
    with pytest.raises(ValueError, match="more"):
        target.consume("ref", {"next": 3}, [ArrayChunk(bytes(1))])


def test_an_empty_chunk_is_rejected_because_more_could_follow_for_ever():
    target = ArrayAssembler()
    with pytest.raises(ValueError, match="empty"):
        target.consume("ref", {"next": 1}, [ArrayChunk(b"")])
    target.consume("ref", {"next": 1}, announce(("T0", "<f4", [2])))
    with pytest.raises(ValueError, match="empty"):
        target.consume("ref", {"next": 2}, [ArrayChunk(b"")])


def test_a_declaration_that_is_nested_without_end_is_rejected():
    target = ArrayAssembler()
    with pytest.raises(ValueError, match="deep"):
        target.consume("ref", {"next": 1}, [ArrayChunk(b"[" * 20_000 + b"]" * 20_000)])


def test_a_declaration_of_many_arrays_is_rejected_before_it_is_parsed():
    many = announce(*[(f"T{number}", "<f4", [0]) for number in range(10_000)])
    with pytest.raises(ValueError, match="bytes of names and shapes"):
        ArrayAssembler().consume("ref", {"next": 1}, many)


@pytest.mark.parametrize(
    ("contents", "too_large"), [(("T0", "<f4", [9]), True), (("T0", "|O", [1]), False)]
)
def test_it_is_known_whether_a_transfer_was_too_large(contents, too_large):
    target = ArrayAssembler(limit=32)
    with pytest.raises(ValueError, match=r"exceed|numeric"):
        target.consume("ref", {"next": 1}, announce(contents))
    assert target.too_large is too_large


@pytest.mark.parametrize("sent", [[], [ArrayChunk(bytes(4))]])
def test_fewer_bytes_than_declared_are_an_error(sent):
    target = ArrayAssembler()
    target.consume("ref", {"next": 1}, announce(("T0", "<f4", [2])))
    for piece in sent:
        target.consume("ref", {"next": 2}, [piece])
    target.download_completed("ref")
    assert (target.error, target.arrays) == ("fewer bytes than declared", None)


def test_arrays_are_written_into_the_allocated_memory():
    given = {}

    def make(sizes):
        given.update({name: np.empty(count, dtype) for name, (dtype, count) in sizes.items()})
        return given

    fetch(ArrayStream(ARRAYS, 8), ArrayAssembler(make=make))
    assert np.array_equal(given["T0"], ARRAYS["T0"])


class Circle:
    """A reference cycle like those that FLARE keeps of a sent message."""

    def __init__(self):
        self.itself = self


def test_reference_cycles_are_freed_while_chunks_are_sent():
    gc.disable()
    try:
        left = weakref.ref(Circle())
        fetch(
            ArrayStream({"T0": np.zeros(array_streaming._COLLECT_EVERY, np.uint8)}, 1),
            ArrayAssembler(),
        )
        assert left() is None
    finally:
        gc.enable()


def test_flare_copies_no_array():
    flat = StreamedArray(ARRAYS["T0"])
    assert copy.deepcopy({"a": flat})["a"] is flat


@pytest.fixture
def few(monkeypatch):
    """A codec with limited turns, whose downloads return new arrays."""

    def download(consumer, **more):
        try:
            fetch(ArrayStream({"a": np.ones(9), "b": np.ones(9)}, 64), consumer)
        except ValueError as error:  # FLARE catches it
            consumer.download_failed("ref", str(error))

    monkeypatch.setattr(array_streaming, "download_object", download)
    monkeypatch.setattr(array_streaming, "TURN_TIMEOUT", 0.2)
    array_streaming.limit_senders()
    return array_streaming._StreamedArrayCodec()


def download(codec):
    error, flats = codec.download("north", "ref")
    assert error == ""
    return flats


def test_a_sender_of_more_than_an_update_is_rejected(few):
    array_streaming.limit_arrays(2 * 72 - 1)
    error, flats = few.download("north", "ref")
    assert flats is None
    assert "144 bytes exceed the limit of 143" in error


def test_a_turn_lasts_until_the_arrays_are_freed(few):
    held = [download(few) for _ in range(array_streaming.AT_ONCE)]
    fetched = threading.Event()
    waiting = threading.Thread(target=lambda: (download(few), fetched.set()))
    waiting.start()
    del held[0]["a"]
    assert not fetched.wait(0.05)
    held.pop(0)
    waiting.join()
    assert fetched.is_set()
    assert few.turns.qsize() == 1


def test_waiting_for_a_turn_has_a_timeout(few):
    held = [download(few) for _ in range(array_streaming.AT_ONCE)]
    held.append(download(few))
    assert len(held) == array_streaming.AT_ONCE + 1
    held.clear()
    assert few.turns.qsize() == array_streaming.AT_ONCE


@pytest.mark.parametrize("failure", ["said", "raised"])
def test_a_download_that_fails_gives_its_turn_back(few, monkeypatch, failure):
    def fail(consumer, **more):
        if failure == "raised":
            raise OSError("gone")
        consumer.download_failed("ref", "gone")

    monkeypatch.setattr(array_streaming, "download_object", fail)
    for _ in range(2 * array_streaming.AT_ONCE):
        if failure == "raised":
            with pytest.raises(OSError, match="gone"):
                few.download("north", "ref")
        else:
            assert few.download("north", "ref") == ("gone", None)
    assert few.turns.qsize() == array_streaming.AT_ONCE
