import torch

from consortium.protocol.codec import digest, pack, unpack


def test_packing_joins_tensors_of_a_dtype_into_one_buffer():
    tensors = {
        "a": torch.arange(6.0).view(2, 3),
        "b": torch.tensor(5),
        "c": torch.tensor(2.0),
        "d": torch.zeros(0, 4),
        "e": torch.randn(3).bfloat16(),
    }
    contents, buffers = pack(tensors)
    assert {dtype: buffer.shape for dtype, buffer in buffers.items()} == {
        "float32": (7,),
        "int64": (1,),
        "bfloat16": (3,),
    }
    back = unpack(contents, buffers)
    assert digest(back) == digest(tensors)


def test_the_digest_depends_on_names_dtypes_shapes_and_values_and_not_on_order_or_strides():
    state = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(1)}
    assert digest(state) == digest(dict(reversed(state.items())))
    assert digest(state) == digest({**state, "a": state["a"].t().contiguous().t()})
    for other in (
        {"c": state["a"], "b": state["b"]},
        {**state, "a": state["a"].view(3, 2)},
        {**state, "a": state["a"] + 1},
        {**state, "b": state["b"].int()},
    ):
        assert digest(state) != digest(other)
