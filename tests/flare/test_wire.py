"""Models and updates through FLARE's own encoding, in one message or fetched."""

import numpy as np
import pytest
import torch
from nvflare.apis.dxo import DXO, DataKind
from nvflare.fuel.utils import fobs

from consortium.flare.array_streaming import StreamedArray, register_arrays
from consortium.flare.server.answers import answer_from_shareable, model_to_shareable
from consortium.flare.wire import (
    drop_arrays,
    metrics_to_shareable,
    model_from_shareable,
    put_arrays,
    take_arrays,
    update_to_shareable,
)
from consortium.protocol.codec import digest, unpack
from consortium.protocol.metrics import Metrics
from consortium.protocol.pipeline import Pipeline, build_pipeline
from consortium.protocol.update import Update, UpdateRefused, update_to_wire
from consortium.settings.base import UpdateSettings


@pytest.fixture(autouse=True)
def codec():
    register_arrays()


def state(side):
    return {
        "weight": torch.randn(side, side),
        "half": torch.randn(5).bfloat16(),
        "count": torch.tensor(7),
        "none": torch.zeros(0, 3),
    }


@pytest.mark.parametrize("side", [4, 600])
def test_received_models_and_updates_equal_the_sent_ones(side):
    model = state(side)
    sent = model_to_shareable(model, round=3)
    (contents, buffers), meta = model_from_shareable(fobs.loads(fobs.dumps(sent)))
    assert meta == {"round": 3}
    assert digest(unpack(contents, buffers)) == digest(model)
    update = Update("north", 3, "a" * 64, 5, model, Metrics(loss=0.5))
    back = fobs.loads(fobs.dumps(update_to_shareable(*update_to_wire(update))))
    answer = answer_from_shareable(back, "north", Pipeline())
    assert digest(answer.tensors) == digest(model)
    assert (answer.metrics, answer.cases) == (update.metrics, 5)


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
@pytest.mark.parametrize("side", [40, 1200])  # in one message, and fetched
def test_a_compressed_update_is_decoded(kind, side, tmp_path):
    pipeline = build_pipeline(UpdateSettings(compression=kind))
    update = Update("north", 3, "a" * 64, 5, state(side), Metrics())
    sent = update_to_shareable(*pipeline.client(*update_to_wire(update), tmp_path))
    back = fobs.loads(fobs.dumps(sent))
    answer = answer_from_shareable(back, "north", pipeline)
    for name, tensor in update.tensors.items():
        torch.testing.assert_close(answer.tensors[name], tensor, atol=0.05, rtol=0)
    for other in (Pipeline(), build_pipeline(UpdateSettings(compression=OTHER[kind]))):
        assert answer_from_shareable(back, "north", other).code == "malformed"
    plain = update_to_shareable(*update_to_wire(update))
    assert answer_from_shareable(plain, "north", pipeline).code == "malformed"


OTHER = {"bfloat16": "int8", "int8": "bfloat16"}


def test_few_bytes_travel_in_the_message_and_many_are_fetched():
    carried = put_arrays({"float32": np.zeros(2**18, np.float32), "int64": np.zeros(2**18, int)})
    assert carried["float32"] == ("<f4", bytes(2**20))
    assert isinstance(carried["int64"], StreamedArray)
    assert all(array.flags.writeable for array in take_arrays(carried).values())


@pytest.mark.parametrize("carried", ["O", ("O", bytes(8)), ("<f4", bytes(7)), ("V8", bytes(8)), 5])
def test_values_that_are_no_arrays_are_refused(carried):
    update = Update("north", 3, "a" * 64, 5, {"weight": torch.zeros(2)}, Metrics())
    plain = update_to_wire(update)[1]
    sent = DXO(DataKind.WEIGHT_DIFF, {"float32": carried}, {"update": plain}).to_shareable()
    refusal = answer_from_shareable(sent, "north", Pipeline())
    assert isinstance(refusal, UpdateRefused)
    assert refusal.code == "malformed"


def test_arrays_are_released_and_a_message_without_any_stays():
    model = state(600)
    sent = model_to_shareable(model)
    drop_arrays(sent)
    (_, buffers), _ = model_from_shareable(sent)
    assert {key: len(flat) for key, flat in buffers.items()}["float32"] == 0
    drop_arrays(metrics_to_shareable(Metrics(loss=0.5)))
