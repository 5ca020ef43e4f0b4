"""Packs tensors into flat buffers and back, and computes the digest of a model.

`unpack` always restores the exact bits that `pack` was given, and refuses what does not fit.
"""

import hashlib
import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from consortium.protocol.buffers import BufferFactory, Buffers, Contents, Sizes, make_buffers
from consortium.protocol.schema import State, TensorSpec


def digest(state: State) -> str:
    """Computes sha256 over names, dtypes, shapes and bytes, in the order of the names."""
    total = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        total.update(as_bytes(tensor))
    return total.hexdigest()


def as_bytes(tensor: Tensor) -> memoryview:
    """Returns the tensor's bytes in C order, without a copy if it is contiguous on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]


def pack(tensors: State, make: BufferFactory | None = None) -> tuple[Contents, Buffers]:
    """Joins tensors into one flat buffer a dtype.

    Args:
        tensors: on any device.
        make: allocates the buffers; tensors that lie in them already are not copied. Without it the
            buffers are new, unless the tensors fill flat buffers in this order already.

    Returns:
        The contents as (name, dtype, shape) in order, and the buffers by dtype. A bfloat16 buffer
        is int16 with the same bits, because numpy has no bfloat16.
    """
    contents, sizes = describe(tensors)
    if make is None:
        flat = _flat_already(tensors, sizes)
        if flat is not None:
            return contents, flat
    buffers = (make or make_buffers)(sizes)
    for target, tensor in zip(unpack(contents, buffers).values(), tensors.values(), strict=True):
        if target.data_ptr() != tensor.data_ptr():
            target.copy_(tensor.detach())
    return contents, buffers


def describe(tensors: Mapping[str, Tensor | TensorSpec]) -> tuple[Contents, Sizes]:
    """Returns the contents of tensors, as `pack` does, and the sizes of their buffers."""
    contents: Contents = []
    sizes: Sizes = {}
    for name, tensor in tensors.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        contents.append((name, dtype, list(tensor.shape)))
        wire = "int16" if dtype == "bfloat16" else dtype
        sizes[dtype] = (wire, sizes.get(dtype, (wire, 0))[1] + math.prod(tensor.shape))
    return contents, sizes


def _flat_already(tensors: State, sizes: Sizes) -> Buffers | None:
    """Returns the buffers that the tensors fill one after the other; None if they do not."""
    flats: dict[str, Tensor] = {}
    position: dict[str, int] = {}
    for tensor in tensors.values():
        dtype = str(tensor.dtype).removeprefix("torch.")
        if tensor.device.type != "cpu" or not tensor.is_contiguous():
            return None
        if dtype not in flats:
            storage = tensor.untyped_storage()
            flats[dtype] = torch.empty(0, dtype=tensor.dtype).set_(storage)
            position[dtype] = storage.data_ptr()
        if tensor.numel() and tensor.data_ptr() != position[dtype]:
            return None
        position[dtype] += tensor.numel() * tensor.element_size()
    if any(flat.numel() != sizes[dtype][1] for dtype, flat in flats.items()):
        return None
    return {
        dtype: flat.view(getattr(torch, sizes[dtype][0])).numpy() for dtype, flat in flats.items()
    }


Plan = tuple[dict[str, list[int]], list[tuple[str, str, tuple[int, ...]]]]
_last_plan: tuple[Any, Plan] | None = None


def _plan(contents: Any) -> Plan:
    """Returns the tensor sizes of each dtype, and the name, dtype and shape of each tensor.

    The plan that `unpack` used last is cached, because all updates of a run have the same contents.
    """
    last = _last_plan  # read once: answers are unpacked in several threads
    if last is not None and last[0] == contents:
        return last[1]
    sizes: dict[str, list[int]] = {}
    shapes: list[tuple[str, str, tuple[int, ...]]] = []
    names: set[str] = set()
    for name, dtype, shape in contents:
        if not isinstance(name, str) or name in names or any(side < 0 for side in shape):
            raise ValueError("contents do not fit")
        names.add(name)
        sizes.setdefault(dtype, []).append(math.prod(shape))
        shapes.append((name, dtype, tuple(shape)))
    return sizes, shapes


def unpack(contents: Any, buffers: Any) -> dict[str, Tensor]:
    """Undoes `pack`; the tensors are views of the buffers.

    Raises:
        ValueError: the contents and the buffers do not fit exactly, or a name is repeated.
    """
    global _last_plan
    try:
        plan = _plan(contents)
        sizes, shapes = plan
        flats = {dtype: _tensor_of(dtype, buffer) for dtype, buffer in buffers.items()}
        if any(sum(sizes.get(dtype, ())) != flat.numel() for dtype, flat in flats.items()):
            raise ValueError("contents do not fit")
        parts = {
            dtype: iter(flats[dtype].split(counts))  # type: ignore[no-untyped-call]
            for dtype, counts in sizes.items()
        }
        tensors = {name: next(parts[dtype]).view(shape) for name, dtype, shape in shapes}
    except (
        TypeError,
        KeyError,
        AttributeError,
        ArithmeticError,
        LookupError,
        RuntimeError,
    ) as error:
        raise ValueError(f"malformed ({type(error).__name__})") from None
    if _last_plan is None or _last_plan[1] is not plan:
        _last_plan = (deepcopy(contents), plan)
    return tensors


def count_values(contents: Any) -> int:
    """Counts the elements that contents declare; what they are is not checked.

    Raises:
        ValueError: they are no contents.
    """
    try:
        return sum(math.prod(shape) for _, _, shape in contents)
    except (TypeError, ArithmeticError) as error:
        raise ValueError(f"malformed ({type(error).__name__})") from None


def _tensor_of(dtype: str, buffer: NDArray[Any]) -> Tensor:
    flat = torch.from_numpy(buffer)
    if dtype == "bfloat16":
        flat = flat.view(torch.bfloat16)
    if flat.dim() != 1 or str(flat.dtype) != f"torch.{dtype}":
        raise ValueError("dtype does not fit")
    return flat
