"""Executors of hospitals that attack the orchestrator; a job brings them in its own code."""

import os

import numpy as np
from nvflare.apis.dxo import from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FedEventHeader, ReturnCode
from nvflare.apis.shareable import Shareable
from nvflare.fuel.utils import fobs

from consortium.flare.array_streaming import StreamedArray
from consortium.flare.client.executor import HospitalExecutor

MB = 10**6
ATTACKS = (
    "ends-the-job",
    "large-array",
    "large-message",
    "nesting",
    "unknown-type",
    "many-values",
    "false-contents",
)
"""What valley does in rounds 1 to 7."""


class Stranger:
    """A type that the orchestrator does not know."""


class _StrangerCodec(fobs.Decomposer):
    def supported_type(self):
        return Stranger

    def decompose(self, target, manager=None):
        return b""

    def recompose(self, data, manager=None):
        return Stranger()


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def spoil(answer, attack):
    """Turns a sound answer into an attack."""
    dxo = from_shareable(answer)
    if attack == "large-array":
        dxo.data["float32"] = StreamedArray(np.zeros(200 * MB // 4, np.float32))
    elif attack == "large-message":
        dxo.data["float32"] = ("<f4", bytes(300 * MB))
    elif attack == "nesting":
        dxo.meta["update"]["contents"] = nested(400)
    elif attack == "unknown-type":
        fobs.register(_StrangerCodec)
        dxo.meta["update"]["metrics"] = Stranger()
    elif attack == "many-values":
        dxo.meta["update"]["contents"] = [[] for _ in range(600_000)]
    elif attack == "false-contents":
        dxo.meta["update"]["contents"] = [["w", "float32", [2**62, 4]]]
    elif attack == "ends-the-job":
        answer.set_return_code(ReturnCode.TASK_UNKNOWN)
    return dxo.update_shareable(answer)


def end_of_all():
    """An event that ends the job of all, where FLARE fires it at the orchestrator."""
    event = Shareable()
    event.set_header(FedEventHeader.TIMESTAMP, 1.0)
    event.set_header(FedEventHeader.EVENT_TYPE, EventType.FATAL_SYSTEM_ERROR)
    return event


class HostileExecutor(HospitalExecutor):
    """Attacks from valley, another way in each round; only `CONSORTIUM_ATTACK` if that is set."""

    def execute(self, task_name, shareable, fl_ctx, abort_signal):
        answer = super().execute(task_name, shareable, fl_ctx, abort_signal)
        number = from_shareable(shareable).meta.get("round", 0)
        chosen = os.environ.get("CONSORTIUM_ATTACK")
        attacks = ATTACKS if chosen is None else (chosen,) * 2
        if (
            task_name == "train"
            and fl_ctx.get_identity_name() == "valley"
            and number < len(attacks)
        ):
            return spoil(answer, attacks[number])
        return answer
