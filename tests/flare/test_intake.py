"""Answers reach the workflow or become refusals; none raises where FLARE ends the job for it."""

import threading
import tracemalloc

import numpy as np
import pytest
from nvflare.apis.dxo import from_shareable
from nvflare.apis.fl_constant import ReturnCode
from nvflare.fuel.f3.cellnet.cell import Cell
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey
from nvflare.fuel.f3.message import Message
from nvflare.fuel.f3.streaming.stream_types import StreamFuture
from nvflare.fuel.utils import fobs
from tests.flare.answers import COMMAND, SUBMIT, JobProcess, encode, make_answer, make_update
from tests.flare.hostile_executor import spoil

from consortium.core.errors import Failure
from consortium.flare.array_streaming import StreamedArray
from consortium.flare.server.answers import answer_from_shareable, metrics_from_shareable
from consortium.flare.server.message_limits import MAX_BYTES
from consortium.flare.wire import update_to_shareable
from consortium.protocol.codec import digest
from consortium.protocol.pipeline import build_pipeline
from consortium.protocol.update import Update, UpdateRefused, update_to_wire
from consortium.settings.base import UpdateSettings


@pytest.fixture(scope="module")
def process():
    return JobProcess()


def test_a_sound_answer_arrives_as_it_was_sent_and_under_its_senders_name(process):
    answer = process.receive(encode(make_answer()))
    assert answer.get_peer_context().get_job_id() == "this-job"
    assert answer.get_peer_context().get_identity_name() == "valley"
    update = process.read(encode(make_answer()))
    assert digest(update.tensors) == digest(make_update().tensors)
    assert (update.hospital, update.metrics) == ("valley", make_update().metrics)


@pytest.mark.parametrize(
    ("attack", "code"),
    [
        ("nesting", "too-many-values"),
        ("unknown-type", "malformed"),
        ("many-values", "too-many-values"),
        ("false-contents", "too-many-values"),
        ("ends-the-job", "task-unknown"),
    ],
)
def test_an_attack_is_the_hospitals_answer_to_its_task(process, attack, code):
    message = encode(spoil(make_answer(), attack))
    answer, refusal = process.receive(message), process.read(message)
    assert isinstance(refusal, UpdateRefused | Failure)
    assert (refusal.hospital, refusal.code) == ("valley", code)
    if attack not in ("false-contents", "ends-the-job"):  # these can be decoded
        assert answer.get_cookie("__task_id__") == "task-7"
        assert metrics_from_shareable(answer, "valley") == Failure("valley", code)


@pytest.mark.parametrize("code", [ReturnCode.UNSAFE_JOB, ReturnCode.RUN_MISMATCH])
def test_a_return_code_for_which_flare_ends_the_job_is_a_failure_of_the_hospital(process, code):
    answer = make_answer()
    answer.set_return_code(code)
    received = process.receive(encode(answer))
    assert received.get_return_code() == ReturnCode.OK
    assert process.read(encode(answer)) == Failure("valley", code.lower().replace("_", "-"))


@pytest.mark.parametrize("message", [b"", b"\x00" * 100, b"\xff", encode({}), encode([1])])
def test_what_is_no_answer_is_refused(process, message):
    assert process.read(message).code == "malformed"


def test_a_size_that_is_declared_too_large_or_falsely_is_refused(process):
    assert process.read(b"\x00" * (MAX_BYTES + 1)).code == "too-many-bytes"
    process.stream(encode(make_answer()), size=MAX_BYTES)
    assert process.taken.get(timeout=60).code == "malformed"
    process.stream(encode(make_answer()), size=10)
    assert process.taken.get(timeout=60).code == "malformed"


def test_an_answer_to_no_task_is_recorded(process):
    process.task = None
    try:
        process.stream(b"nonsense")
        assert process.refused.get(timeout=60) == ("valley", "malformed")
    finally:
        process.task = ("train", "task-7")


def test_a_barred_hospitals_answer_is_not_read_but_counted(process):
    process.barred.add("valley")
    try:
        process.stream(encode(make_answer()))
        assert process.refused.get(timeout=60) == ("valley", "too-many-answers")
    finally:
        process.barred.clear()
    assert process.taken.empty()


def test_an_unknown_sender_is_not_read(process):
    process.stream(encode(make_answer()), token="another").result()
    assert isinstance(process.read(encode(make_answer())), Update)
    assert process.taken.empty()


def test_a_third_answer_at_a_time_is_not_received(process):
    """The first two have begun and do not end: their memory is the most that a hospital takes."""
    handle = process.cell.byte_receiver.registry.find(COMMAND, SUBMIT).cb
    ended = threading.Event()

    class Endless:
        headers = process.stream(encode(make_answer())).headers

        def get_size(self):
            return 0

        def read(self, size):
            ended.wait(60)
            return b""

    process.taken.get(timeout=60)
    futures = [StreamFuture(k, Endless.headers) for k in range(3)]
    for future in futures:
        handle(future, Endless(), False)
    assert [bool(future.error) for future in futures] == [False, False, True]
    ended.set()
    for _ in range(2):
        assert process.taken.get(timeout=60).code == "malformed"


def arrays_of(cell_name):
    """An answer whose arrays are to be fetched from a cell."""
    cell = Cell(cell_name, "inproc://a", False, {}, False, "inproc://b")
    answer = make_answer()
    from_shareable(answer).data["float32"] = StreamedArray(np.zeros(12, np.float32))
    return fobs.dumps(answer, fobs_ctx={"cell": cell})


def test_arrays_are_fetched_from_nobody_but_the_sender(process):
    assert process.read(arrays_of("north.job")).code == "malformed"


def test_no_hospital_sends_commands(process):
    """FLARE's job process would obey `abort` from anybody whose message reaches it."""
    respond = process.cell.core_cell.req_reg.find(COMMAND, "abort").cb
    for origin, allowed in (("valley.job", False), ("valley", False), ("server", True)):
        headers = {MessageHeaderKey.ORIGIN: origin, MessageHeaderKey.TOPIC: "abort"}
        respond(Message(headers, None))
        assert process.taken.empty() is not allowed
    process.taken.get(timeout=60)
    submit = process.cell.core_cell.req_reg.find(COMMAND, SUBMIT).cb
    submit(Message({MessageHeaderKey.ORIGIN: "valley.job", MessageHeaderKey.TOPIC: SUBMIT}, None))
    assert process.taken.empty()


def test_no_hospital_fires_events_at_the_orchestrator(process):
    reply = process.cell.core_cell.req_reg.find("aux_communication", "fed.event").cb(Message({}))
    assert reply.get_header(MessageHeaderKey.RETURN_CODE) == "invalid_request"


def test_every_message_has_a_limit(process):
    handlers = [item.cb.__self__ for item in process.cell.byte_receiver.registry.reg.values()]
    assert all(handler.max_blob_size <= 2**25 for handler in handlers)


MEMORY = {"nesting": 1, "unknown-type": 1, "many-values": 3, "false-contents": 1}
"""MB that receiving an attack takes at most; many values are 0.6 MB as bytes and 40 MB decoded."""


@pytest.mark.parametrize("attack", MEMORY)
def test_an_attack_takes_no_more_memory_than_its_bytes(process, attack):
    message = encode(spoil(make_answer(), attack))
    process.read(encode(make_answer()))
    tracemalloc.start()
    try:
        process.read(message)
        assert tracemalloc.get_traced_memory()[1] < MEMORY[attack] * 10**6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["int8", "bfloat16"])
def test_a_compressed_update_that_grows_beyond_the_model_is_refused(process, kind):
    """Four bytes come from each one, so a limit of the bytes that are sent is not enough."""
    count = 2_000_000
    codes = np.zeros(count, np.int8 if kind == "int8" else np.uint16)
    scales = np.zeros(-(-count // 256) if kind == "int8" else 0, np.float32)
    buffers = {"float32": np.zeros(0, np.float32), "float32.codes": codes, "float32.scales": scales}
    _, plain = update_to_wire(make_update())
    plain |= {"contents": [("w", "float32", [count])], "compression": kind}
    answer = update_to_shareable(buffers, plain)
    pipeline = build_pipeline(UpdateSettings(compression=kind))
    tracemalloc.start()
    try:
        refusal = answer_from_shareable(answer, "valley", pipeline, 18)
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()
    assert refusal.code == "too-many-values"
    assert answer_from_shareable(answer, "valley", pipeline).tensors["w"].numel() == count
