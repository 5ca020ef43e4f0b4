"""Receives hospitals' answers in FLARE's place, so that no answer can end the orchestrator's job.

FLARE decodes an answer as soon as it has arrived, fetches all that it names, and ends the whole job
if that fails. Here an answer is measured before it is decoded, its arrays are fetched afterwards
and from its sender only, and whatever goes wrong becomes a refusal of that hospital, which takes
FLARE's usual path to the workflow. Each hospital may send `_AT_ONCE` answers at a time.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from nvflare.apis.dxo import DataKind, from_shareable
from nvflare.apis.fl_constant import FLContextKey, ReservedKey, ReturnCode, ServerCommandNames
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import ReservedHeaderKey, Shareable
from nvflare.fuel.f3.cellnet.cell import Adapter, Cell
from nvflare.fuel.f3.cellnet.core_cell import make_reply
from nvflare.fuel.f3.cellnet.defs import CellChannel, MessageHeaderKey
from nvflare.fuel.f3.cellnet.defs import ReturnCode as CellReturnCode
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from nvflare.fuel.f3.message import Message
from nvflare.fuel.f3.streaming.blob_streamer import BlobHandler
from nvflare.fuel.f3.streaming.download_service import (
    OBJ_DOWNLOADER_CHANNEL,
    OBJ_DOWNLOADER_TOPIC,
)
from nvflare.fuel.f3.streaming.stream_const import StreamHeaderKey
from nvflare.fuel.f3.streaming.stream_types import BlobSizeError, Stream, StreamError, StreamFuture
from nvflare.fuel.utils import fobs
from nvflare.fuel.utils.fobs import FOBSContextKey
from nvflare.fuel.utils.fobs.datum import DatumRef
from nvflare.fuel.utils.fobs.decomposers.via_downloader import LazyDownloadRef
from nvflare.private.defs import CellMessageHeaderKeys
from nvflare.widgets.fed_event import FED_EVENT_TOPIC

from consortium.flare.array_streaming import (
    ARRAYS,
    MOST_CHUNK,
    ArrayChunk,
    StreamedArray,
    fetch_arrays,
)
from consortium.flare.server.message_limits import (
    MAX_BYTES,
    MessageRefused,
    check_chunk,
    check_message,
)
from consortium.flare.wire import FAILURE

_AT_ONCE = (
    2  # a hospital whose connection broke sends its answer again while the first one times out
)
_FETCH_TIMEOUT = 600.0  # seconds until a request for a chunk is repeated


def _names(*kinds: type) -> frozenset[str]:
    return frozenset(f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)


_TYPES = _names(Shareable, FLContext, DataKind, StreamedArray) | {"tuple"}
"""What a sound answer consists of, besides plain values."""
_CHUNK_TYPES = _names(ArrayChunk, DatumRef)
_ENDS_THE_JOB = frozenset({ReturnCode.RUN_MISMATCH, ReturnCode.TASK_UNKNOWN, ReturnCode.UNSAFE_JOB})
"""Return codes in an answer for which FLARE ends the job of all hospitals."""

Respond = Callable[[Message], Message]


class RefusedAnswer(Shareable):
    """Takes the place of an answer that was refused while it was read.

    Attributes:
        code: of the refusal.
    """

    def __init__(self, code: str):
        super().__init__()
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """What the reception of answers asks of the run; every function may be called in any thread.

    Attributes:
        job_id: FLARE's id of the job.
        hospital_of: returns the hospital that FLARE has authenticated by a token.
        is_barred: whether no further answer of a hospital is read in this round.
        open_task: returns the name and id of the task that a hospital is asked to answer now.
        refuse: records the refusal of a hospital's answer, with a code, if no task is open.
        reading: names a hospital while one of its answers is read.
        decoding: names the hospital whose answer is decoded.
    """

    job_id: str
    hospital_of: Callable[[str], str | None]
    is_barred: Callable[[str], bool]
    open_task: Callable[[str], tuple[str, str] | None]
    refuse: Callable[[str, str], None]
    reading: Callable[[str], AbstractContextManager[None]]
    decoding: Callable[[str], AbstractContextManager[None]]


def receive_answers(cell: Cell, intake: Intake) -> None:
    """Takes over from FLARE what hospitals send to this job's process.

    Args:
        cell: of the process; FLARE has registered its own callbacks.
        intake: decides about answers.
    """
    channel, topic = CellChannel.SERVER_COMMAND, ServerCommandNames.SUBMIT_UPDATE
    registered = cell.core_cell.req_reg.find(channel, "*")
    respond: Respond = registered.cb
    if isinstance(respond, _OnlyFromTheServer):
        respond = respond.respond
    cell.register_request_cb(channel=channel, topic="*", cb=_OnlyFromTheServer(respond))
    # An answer in a single frame is not one of ours and would pass by the intake.
    cell.core_cell.register_request_cb(channel, topic, _refuse_request)
    # FLARE fires whatever event a hospital names, also the one that ends the job of all.
    cell.register_request_cb(
        channel=CellChannel.AUX_COMMUNICATION, topic=FED_EVENT_TOPIC, cb=_refuse_request
    )
    receiver = _AnswerReceiver(cell, respond, intake)
    handler = _AnswerStreams(receiver)
    cell.byte_receiver.register_callback(channel, topic, handler.handle_blob_cb)
    _check_chunks(cell)
    _limit_messages(cell)


def _check_chunks(cell: Cell) -> None:
    """Checks every chunk of an array that a hospital sends before FLARE decodes it."""
    deliver = cell.byte_receiver.registry.find(CellChannel.RETURN_ONLY, "*").cb.__self__.blob_cb

    def check_and_deliver(future: StreamFuture) -> None:
        try:
            check_chunk(future.result(), _CHUNK_TYPES)
        except StreamError:
            pass  # FLARE asks again, or gives up
        except Exception as error:
            logging.getLogger(__name__).warning("a chunk is refused: %s", type(error).__name__)
            # An empty answer ends the transfer at once.
            future = StreamFuture(future.stream_id, future.headers)
            future.set_result([fobs.dumps({})])
        deliver(future)

    def wait(future: StreamFuture) -> None:
        future.add_done_callback(check_and_deliver, future)

    topic = f"{OBJ_DOWNLOADER_CHANNEL}:{OBJ_DOWNLOADER_TOPIC}"
    cell.register_blob_cb(CellChannel.RETURN_ONLY, topic, wait)


def _limit_messages(cell: Cell) -> None:
    """Limits every message that this process receives, and lets none of them fetch anything."""
    for registered in cell.byte_receiver.registry.reg.values():
        handler = getattr(registered.cb, "__self__", None)
        if isinstance(handler, BlobHandler):
            handler.max_blob_size = min(handler.max_blob_size, max(MAX_BYTES, MOST_CHUNK))
    cell.decode_pass_through_channels |= {
        CellChannel.SERVER_COMMAND,
        CellChannel.AUX_COMMUNICATION,
        OBJ_DOWNLOADER_CHANNEL,
    }


def _refuse_request(request: Message) -> Message:
    return make_reply(CellReturnCode.INVALID_REQUEST)


class _OnlyFromTheServer:
    """Lets hospitals send no command but the request for a task; FLARE checks only two commands."""

    def __init__(self, respond: Respond):
        self.respond = respond
        self.__name__ = "respond_to_command"

    def __call__(self, request: Message) -> Message:
        origin = str(request.get_header(MessageHeaderKey.ORIGIN, ""))
        topic = request.get_header(MessageHeaderKey.TOPIC)
        if topic != ServerCommandNames.GET_TASK and FQCN.split(origin)[0] != FQCN.ROOT_SERVER:
            logging.getLogger(__name__).warning("%s may not send %s", origin[:200], topic)
            return make_reply(CellReturnCode.UNAUTHENTICATED)
        return self.respond(request)


class _AnswerStreams(BlobHandler):
    """Lets each hospital send a few answers at a time."""

    def __init__(self, receiver: "_AnswerReceiver"):
        super().__init__(receiver.call)
        self.max_blob_size = MAX_BYTES
        self._receiver = receiver

    def handle_blob_cb(
        self, future: StreamFuture, stream: Stream, resume: bool, *args: Any, **kwargs: Any
    ) -> int:
        """Begins to receive an answer; see `BlobHandler`."""
        if not self._receiver.enter(_origin(future)):
            self._fail(stream, future, StreamError("earlier answers are still being read"))
            return 0
        result: int = super().handle_blob_cb(future, stream, resume, *args, **kwargs)
        return result


class _AnswerReceiver(Adapter):
    """Decodes answers as `Adapter` does, but refuses instead of raising."""

    def __init__(self, cell: Cell, respond: Respond, intake: Intake):
        super().__init__(respond, cell.core_cell.my_info, cell)
        self._intake = intake
        self._decoding = threading.Lock()  # one at a time, so that the memory is that of one
        self._sending: Counter[str] = Counter()
        self._lock = threading.Lock()

    def enter(self, origin: str) -> bool:
        """Counts an answer that begins to arrive; returns False if there are too many."""
        with self._lock:
            if self._sending[origin] >= _AT_ONCE:
                return False
            self._sending[origin] += 1
            return True

    def call(self, future: StreamFuture, *args: Any, **kwargs: Any) -> None:
        """Receives one answer; see `Adapter`."""
        origin, headers = _origin(future), future.headers
        try:
            response = self._respond(future)
        finally:
            with self._lock:
                self._sending[origin] -= 1
                self._sending += Counter()  # drops origins that send nothing now
        self._send_response(
            response,
            headers.get(StreamHeaderKey.STREAM_REQ_ID, ""),
            headers.get(MessageHeaderKey.REQ_ID, ""),
            headers.get(StreamHeaderKey.CHANNEL),
            headers.get(StreamHeaderKey.TOPIC),
            origin,
            headers.get(MessageHeaderKey.SECURE, False),
        )

    def _respond(self, future: StreamFuture) -> Message:
        token = future.headers.get(CellMessageHeaderKeys.TOKEN)
        name = self._intake.hospital_of(token) if isinstance(token, str) else None
        if name is None:
            return make_reply(CellReturnCode.AUTHENTICATION_ERROR)
        if self._intake.is_barred(name):
            self._intake.refuse(name, "too-many-answers")
            return make_reply(CellReturnCode.SERVICE_UNAVAILABLE)
        with self._intake.reading(name):
            try:
                answer = self._read(future, name)
            except MessageRefused as refused:
                self.logger.warning("an answer of %s is refused: %s", name, refused)
                answer = RefusedAnswer(refused.code)
            except Exception as error:
                # Whatever a hospital sends must not break the round of the others.
                self.logger.warning("an answer of %s is refused: %s", name, type(error).__name__)
                answer = RefusedAnswer("malformed")
            if isinstance(answer, RefusedAnswer) and not self._address(answer, name):
                self._intake.refuse(name, answer.code)
                return make_reply(CellReturnCode.OK)
            answer.set_peer_context(self._context_of(name))
            headers = future.headers
            request = Message(headers, answer)
            request.set_header(MessageHeaderKey.CHANNEL, headers.get(StreamHeaderKey.CHANNEL))
            request.set_header(MessageHeaderKey.TOPIC, headers.get(StreamHeaderKey.TOPIC))
            request.remove_header(StreamHeaderKey.PAYLOAD_ENCODING)
            return self.cb(request)

    def _address(self, answer: RefusedAnswer, name: str) -> bool:
        """Makes a refused answer the hospital's answer to its open task; False if there is none."""
        task = self._intake.open_task(name)
        if task is None:
            return False
        answer.set_header(FLContextKey.TASK_NAME, task[0])
        answer.add_cookie(FLContextKey.TASK_ID, task[1])
        return True

    def _context_of(self, name: str) -> FLContext:
        """Says who sent an answer, in place of what the hospital says about itself."""
        context = FLContext()
        context.put(ReservedKey.RUN_NUM, self._intake.job_id, private=False, sticky=False)
        context.put(ReservedKey.IDENTITY_NAME, name, private=False, sticky=False)
        return context

    def _read(self, future: StreamFuture, name: str) -> Shareable:
        """Decodes an answer and fetches its arrays.

        Raises:
            MessageRefused: it is no answer.
            Exception: what FLARE raises when it decodes what is not.
        """
        try:
            message = b"".join(future.result())
        except BlobSizeError as error:
            raise MessageRefused("too-many-bytes", str(error)) from None
        context = self.cell.get_fobs_context(props={FOBSContextKey.PASS_THROUGH: True})
        with self._decoding, self._intake.decoding(name):
            check_message(message, _TYPES, ARRAYS)
            answer = fobs.loads(message, fobs_ctx=context)
        if not isinstance(answer, Shareable):
            raise MessageRefused("malformed", "no answer")
        task = answer.get_header(FLContextKey.TASK_NAME), answer.get_cookie(FLContextKey.TASK_ID)
        if not all(isinstance(part, str) for part in task):
            raise MessageRefused("malformed", "an answer to no task")
        answer.set_header(ReservedHeaderKey.AUDIT_EVENT_ID, "")
        code = answer.get_return_code()
        if code in _ENDS_THE_JOB:
            answer.set_return_code(ReturnCode.OK)
            answer.set_header(FAILURE, {"code": code.lower().replace("_", "-")})
        elif answer.get_header(FAILURE) is None:
            self._fetch(answer, future)
        return answer

    def _fetch(self, answer: Shareable, future: StreamFuture) -> None:
        """Replaces the places of arrays by the arrays."""
        try:
            data: Any = from_shareable(answer).data
        except ValueError:  # without tensors
            return
        places = {key: value for key, value in data.items() if isinstance(value, LazyDownloadRef)}
        if not places:
            return
        sources = {(place.fqcn, place.ref_id, place.dot) for place in places.values()}
        [(fqcn, ref_id, number)] = sources
        if fqcn != _origin(future) or number != ARRAYS:
            raise MessageRefused("malformed", "its arrays are elsewhere")
        fetched = fetch_arrays(
            from_fqcn=fqcn,
            ref_id=ref_id,
            per_request_timeout=_FETCH_TIMEOUT,
            cell=self.cell,
            secure=bool(future.headers.get(MessageHeaderKey.SECURE, False)),
        )
        if fetched.arrays is None:
            code = "too-many-bytes" if fetched.too_large else "malformed"
            raise MessageRefused(code, fetched.error)
        for key, place in places.items():
            data[key] = StreamedArray(fetched.arrays[place.item_id])


def _origin(future: StreamFuture) -> str:
    return str((future.headers or {}).get(MessageHeaderKey.ORIGIN, ""))
