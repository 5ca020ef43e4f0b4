"""Answers of a hospital, as bytes, and an orchestrator's job process without a network."""

from contextlib import nullcontext
from itertools import count
from queue import SimpleQueue

import torch
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.utils.decomposers import flare_decomposers
from nvflare.fuel.f3.cellnet.cell import Cell
from nvflare.fuel.f3.cellnet.defs import Encoding, MessageHeaderKey
from nvflare.fuel.f3.message import Message
from nvflare.fuel.f3.streaming.blob_streamer import BlobStream
from nvflare.fuel.f3.streaming.stream_const import StreamHeaderKey
from nvflare.fuel.f3.streaming.stream_types import StreamFuture
from nvflare.fuel.utils import fobs
from nvflare.private.defs import CellMessageHeaderKeys

from consortium.flare.array_streaming import register_arrays
from consortium.flare.server.answers import answer_from_shareable
from consortium.flare.server.intake import Intake, receive_answers
from consortium.flare.wire import update_to_shareable
from consortium.protocol.metrics import Metrics, Score
from consortium.protocol.pipeline import Pipeline
from consortium.protocol.schema import Reduction, TensorSpec
from consortium.protocol.update import Update, update_to_wire
from consortium.server.collector import UpdateCollector
from consortium.tasks.segmentation.settings import SegmentationSettings

SETTINGS = SegmentationSettings.model_validate(
    {"data": {"channels": ["FLAIR"], "labels": {"tumour": [1]}, "size": [8, 8]}}
)
SCHEMA = {
    "layer.weight": TensorSpec(torch.float32, (3, 4), Reduction.MEAN),
    "layer.half": TensorSpec(torch.bfloat16, (5,), Reduction.MEAN),
    "layer.count": TensorSpec(torch.int64, (), Reduction.INTEGER),
}
_number = count()
COMMAND, SUBMIT = "server_command", "submit_update"


def make_update(hospital="valley", **changes):
    fields = {
        "hospital": hospital,
        "round": 0,
        "base_sha256": "base",
        "cases": 12,
        "tensors": {
            name: torch.full(spec.shape, 1, dtype=spec.dtype) for name, spec in SCHEMA.items()
        },
        "metrics": Metrics(loss=0.5, validation=Score(patients=4, figures={"tumour": 0.25})),
    }
    return Update(**(fields | changes))


def make_answer(update=None):
    """A sound answer, as the hospital's job process hands it to FLARE's channel."""
    register_arrays()
    flare_decomposers.register()
    answer = update_to_shareable(*update_to_wire(update or make_update()))
    answer.set_header(FLContextKey.TASK_NAME, "train")
    answer.add_cookie(FLContextKey.TASK_ID, "task-1")
    context = FLContext()
    context.put("__run_num__", "another-job", private=False, sticky=False)
    answer.set_peer_context(context)
    return answer


def new_collector():
    collector = UpdateCollector(SETTINGS, SCHEMA)
    collector.open(0, "base", ["north", "valley"])
    return collector


class JobProcess:
    """A cell like that of the orchestrator's job, whose answers are received by the intake.

    Args:
        fqcn: FLARE's name of the cell; by default a new one that is connected to nothing.
        root_url: address of the cell, if it is the root of all.

    Attributes:
        taken: what FLARE would hand to the workflow.
        refused: hospital and code of each refusal of an answer to no open task.
        barred: hospitals whose answers are not read.
        task: the open task of every hospital.
    """

    def __init__(self, fqcn=None, root_url=None):
        register_arrays()
        flare_decomposers.register()
        self.taken, self.refused = SimpleQueue(), SimpleQueue()
        self.barred, self.task = set(), ("train", "task-7")
        self.cell = Cell(
            fqcn=fqcn or f"server.job-{next(_number)}",  # no two cells of a process have one name
            root_url=root_url or "inproc://root",
            parent_url=None if fqcn else "inproc://parent",
            secure=False,
            credentials={},
            create_internal_listener=False,
        )
        self.cell.register_request_cb(channel=COMMAND, topic="*", cb=self._respond)
        receive_answers(
            self.cell,
            Intake(
                job_id="this-job",
                hospital_of={"token of valley": "valley"}.get,
                is_barred=self.barred.__contains__,
                open_task=lambda name: self.task,
                refuse=lambda name, code: self.refused.put((name, code)),
                reading=lambda name: nullcontext(),
                decoding=lambda name: nullcontext(),
            ),
        )

    def _respond(self, request):
        self.taken.put(request.payload)
        return Message({}, "")

    def stream(self, message, *, size=None, token="token of valley", origin="valley.job"):
        """Begins to receive a message of the channel; returns its future."""
        headers = {
            MessageHeaderKey.ORIGIN: origin,
            CellMessageHeaderKeys.TOKEN: token,
            StreamHeaderKey.CHANNEL: COMMAND,
            StreamHeaderKey.TOPIC: SUBMIT,
            StreamHeaderKey.PAYLOAD_ENCODING: Encoding.FOBS,
        }
        future, stream = StreamFuture(1, headers), BlobStream(message, headers)
        if size is not None:
            stream.size = size
        self.cell.byte_receiver.registry.find(COMMAND, SUBMIT).cb(future, stream, False)
        return future

    def receive(self, message, **more):
        """Receives one message to its end and returns what the workflow gets."""
        self.stream(message, **more)
        return self.taken.get(timeout=60)

    def read(self, message):
        """Receives one message and decodes the answer as the workflow does."""
        return answer_from_shareable(self.receive(message), "valley", Pipeline(), 18)


def encode(answer):
    return fobs.dumps(answer)
