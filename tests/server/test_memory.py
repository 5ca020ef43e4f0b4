"""The memory of the orchestrator's part of a run, counted by its arrays."""

import gc

import numpy as np
import torch
from tests.federations import Federation

from consortium.protocol.requests import TRAIN


def arrays_held(root):
    """Bytes of the distinct memory of all tensors and arrays that an object references."""
    seen, waiting, held = set(), [root], {}
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, type) or type(item).__name__ == "module":
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            storage = item.untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
        elif isinstance(item, np.ndarray) and item.base is None:
            held[item.ctypes.data] = item.nbytes
        elif isinstance(item, np.ndarray):
            waiting.append(item.base)
        elif not callable(item) or hasattr(item, "__self__"):
            waiting += gc.get_referents(item)
    return sum(held.values())


def test_rounds_hold_two_models_however_many_hospitals_answer(generated, tmp_path, tiny):
    # Large enough that a thread's scratch memory for one block does not count.
    federation = Federation(generated, tmp_path, tiny("network.features=[128,256]"))
    model = sum(tensor.nbytes for tensor in federation.state.model.values())
    number, _ = federation.run.open_round()
    held = []
    for name in federation.names:
        answers = federation.answers(TRAIN, federation.state.model, [name], round=number)
        federation.run.submit(answers.pop(name))
        held.append(arrays_held(federation.run) / model)
    federation.run.close_round()
    held.append(arrays_held(federation.run) / model)
    # The model, and its exact sum of eight bytes an element, which is two models of float32.
    assert all(2.9 < models < 3.6 for models in held), held
    assert max(held[:3]) - min(held[:3]) < 0.01
