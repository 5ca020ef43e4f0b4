"""The cells of a hospital and the orchestrator, connected: arrays are fetched or refused."""

import socket
import sys

import numpy as np
import pytest
import torch
from nvflare.fuel.f3.cellnet.cell import Cell
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey
from nvflare.fuel.f3.message import Message
from nvflare.private.defs import CellMessageHeaderKeys
from tests.flare.answers import COMMAND, SUBMIT, JobProcess, make_answer, make_update

from consortium.flare import array_streaming
from consortium.flare.server.answers import answer_from_shareable
from consortium.protocol.pipeline import Pipeline

LIMIT = 48 * 2**20  # bytes of the arrays of an update
COUNT = LIMIT // 4


@pytest.fixture(scope="module")
def cells():
    """The orchestrator's process and a hospital's cell."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        url = f"tcp://localhost:{free.getsockname()[1]}"
    process = JobProcess(fqcn="server", root_url=url)
    hospital = Cell("valley", url, False, {}, False)
    process.cell.start()
    hospital.start()
    array_streaming.limit_arrays(LIMIT)
    yield process, hospital
    array_streaming.limit_arrays(sys.maxsize)
    hospital.stop()
    process.cell.stop()


def send(cells, tensors):
    """Sends an update of these tensors, and returns what the workflow takes for it."""
    process, hospital = cells
    headers = {CellMessageHeaderKeys.TOKEN: "token of valley"}
    request = Message(headers, make_answer(make_update(tensors=tensors)))
    reply = hospital.send_request(
        channel=COMMAND, topic=SUBMIT, target="server", request=request, timeout=120
    )
    answer = process.taken.get(timeout=120)
    return reply.get_header(MessageHeaderKey.RETURN_CODE), answer_from_shareable(
        answer, "valley", Pipeline()
    )


@pytest.mark.parametrize("count", [2**18 + 1, COUNT // 3, COUNT])
def test_arrays_of_one_or_more_chunks_are_fetched(cells, count):
    tensors = {"w": torch.arange(count, dtype=torch.float32), "few": torch.ones(3).bfloat16()}
    code, update = send(cells, tensors)
    assert code is None or code == "ok"
    assert torch.equal(update.tensors["w"], tensors["w"])
    assert torch.equal(update.tensors["few"], tensors["few"])


def test_more_bytes_than_an_update_has_are_refused_and_the_next_answer_is_taken(cells):
    _, refusal = send(cells, {"w": torch.zeros(COUNT + 1)})
    assert refusal.code == "too-many-bytes"
    _, update = send(cells, {"w": torch.ones(2**19)})
    assert bool((update.tensors["w"] == 1).all())


@pytest.mark.parametrize(
    "piece",
    [
        [[] for _ in range(1000)],
        {"deep": [[[[[[0]]]]]] * 60},
        [np.float64(1)],
        [array_streaming.ArrayChunk(b"")],
        [array_streaming.ArrayChunk(bytes(array_streaming.MOST_CHUNK + 1))],
    ],
)
def test_a_hospital_that_sends_something_else_for_a_chunk_is_refused(cells, monkeypatch, piece):
    produce = array_streaming.ArrayStream.produce

    def produce_other(self, state, requester):
        code, data, following = produce(self, state, requester)
        return code, (piece if state and data is not None else data), following

    with monkeypatch.context() as patch:
        patch.setattr(array_streaming.ArrayStream, "produce", produce_other)
        _, refusal = send(cells, {"w": torch.zeros(2**20)})
    assert refusal.code in ("malformed", "too-many-bytes")
    _, update = send(cells, {"w": torch.ones(2**19)})
    assert bool((update.tensors["w"] == 1).all())
