"""What the orchestrator's part of a run holds, counted by its arrays."""

import gc

import numpy as np
import torch
from tests.federations import Federation

from consortium.protocol.requests import TRAIN


def arrays_held(root):
    """Bytes of the distinct memory of all tensors and arrays that are reached from an object."""
    seen, waiting, held = set(), [root], {}
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, type) or type(each).__name__ == "module":
            continue
        seen.add(id(each))
        if isinstance(each, torch.Tensor):
            storage = each.untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
        elif isinstance(each, np.ndarray) and each.base is None:
            held[each.ctypes.data] = each.nbytes
        elif isinstance(each, np.ndarray):
            waiting.append(each.base)
        elif not callable(each) or hasattr(each, "__self__"):
            waiting += gc.get_referents(each)
    return sum(held.values())


def test_rounds_hold_two_models_however_many_hospitals_answer(generated, tmp_path, tiny):
    # Large enough that a thread's scratch memory for one block does not count.
    federation = Federation(generated, tmp_path, tiny("network.features=[128,256]"))
    model = sum(each.nbytes for each in federation.state.model.values())
    number, _ = federation.run.open_round()
    held = []
    for name in federation.names:
        answers = federation.answers(TRAIN, federation.state.model, [name], round=number)
        federation.run.submit(answers.pop(name))
        held.append(arrays_held(federation.run) / model)
    federation.run.close_round()
    held.append(arrays_held(federation.run) / model)
    # The model, and its exact sum of eight bytes an element, which is two models of float32.
    assert all(2.9 < each < 3.6 for each in held), held
    assert max(held[:3]) - min(held[:3]) < 0.01
