"""Tensors as flat buffers and back, and the digest of a model.

What always holds: `unpack` undoes `pack` to the bit, and refuses what does not fit exactly.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consortium.protocol.buffers import Buffers, Contents, Make, Sizes, make_buffers
from consortium.protocol.schema import State, TensorSpec


def digest(state: State) -> str:
    """sha256 over names, dtypes, shapes and bytes, in the order of the names."""
    total = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        total.update(as_bytes(tensor))
    return total.hexdigest()


def as_bytes(tensor: Tensor) -> memoryview:
    """The tensor's bytes in C order; no copy where it is contiguous on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]


def pack(tensors: State, make: Make | None = None) -> tuple[Contents, Buffers]:
    """Joins tensors into one flat buffer a dtype.

    Args:
        tensors: of any device.
        make: gives the buffers to fill; tensors that lie there already are not copied. Without it
            they are new ones, but for tensors that are a flat buffer's in this order already.

    Returns:
        The contents as (name, dtype, shape) in order, and the buffers by dtype; bfloat16, which
        numpy does not know, as int16 of the same bits.
    """
    contents, sizes = describe(tensors)
    buffers = make(sizes) if make else _flat_already(tensors, sizes) or make_buffers(sizes)
    for target, tensor in zip(unpack(contents, buffers).values(), tensors.values(), strict=True):
        if target.data_ptr() != tensor.data_ptr():
            target.copy_(tensor.detach())
    return contents, buffers


def describe(tensors: Mapping[str, Tensor | TensorSpec]) -> tuple[Contents, Sizes]:
    """The contents of tensors as `pack` gives them, and the sizes of their buffers."""
    contents: Contents = []
    sizes: Sizes = {}
    for name, tensor in tensors.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        contents.append((name, dtype, list(tensor.shape)))
        wire = "int16" if dtype == "bfloat16" else dtype
        sizes[dtype] = (wire, sizes.get(dtype, (wire, 0))[1] + math.prod(tensor.shape))
    return contents, sizes


def _flat_already(tensors: State, sizes: Sizes) -> Buffers | None:
    """The buffers that tensors fill one after the other; None where they do not."""
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


def unpack(contents: Any, buffers: Any) -> dict[str, Tensor]:
    """Undoes `pack`; the tensors are views of the buffers.

    Raises:
        ValueError: the contents and the buffers do not fit exactly, or a name comes twice.
    """
    try:
        position = dict.fromkeys(buffers, 0)
        flats = {dtype: _tensor_of(dtype, buffer) for dtype, buffer in buffers.items()}
        tensors: dict[str, Tensor] = {}
        for name, dtype, shape in contents:
            size = int(np.prod(shape, dtype=np.int64)) if all(side >= 0 for side in shape) else -1
            start = position[dtype]
            flat = flats[dtype][start : start + size]
            if size < 0 or flat.numel() != size or not isinstance(name, str) or name in tensors:
                raise ValueError("contents do not fit")
            tensors[name] = flat.view(*shape) if shape else flat[0]
            position[dtype] += size
        if any(position[dtype] != flat.numel() for dtype, flat in flats.items()):
            raise ValueError("bytes are left over")
    except (TypeError, KeyError, AttributeError, IndexError, RuntimeError) as error:
        raise ValueError(f"malformed ({type(error).__name__})") from None
    return tensors


def _tensor_of(dtype: str, buffer: NDArray[Any]) -> Tensor:
    flat = torch.from_numpy(buffer)
    if dtype == "bfloat16":
        flat = flat.view(torch.bfloat16)
    if flat.dim() != 1 or str(flat.dtype) != f"torch.{dtype}":
        raise ValueError("dtype does not fit")
    return flat
