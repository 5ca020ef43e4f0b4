"""Updates in fewer bytes, with what was residual on the way given back in the next round.

`bfloat16` keeps 8 bits of a number's significand, in half of the bytes. `int8` keeps, of each block
of 256 elements of a tensor, the largest magnitude m and every element as a whole number of m / 127,
in a quarter of the bytes. What rounding took is kept at the hospital and added to its next update
(error feedback: Seide et al., Interspeech 2014; Karimireddy et al., ICML 2019, algorithm 2), so
that over rounds nothing is residual, only late. When to use it: a slow network, a model of some
size. What it does not do: hide anything. It is off unless the settings ask for it
(`update.compression`).

What always holds: tensors of fewer than 1,024 elements (batch-norm statistics among them) and those
that are not float32 travel as they are; and what is rebuilt has the sizes that the contents say, or
is refused. Nothing here needs torch.
"""

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consortium.protocol.buffers import Buffers, Contents

BLOCK = 256
"""Elements that share a scale."""
FEWEST = 1024
"""Elements of a tensor from which it is made smaller."""
_WHOLE, _CODES, _SCALES = "float32", "float32.codes", "float32.scales"
_STEPS = 127


class ErrorFeedbackCompressor:
    """Makes a hospital's updates smaller, and keeps what that takes.

    Args:
        kind: `bfloat16` or `int8`.
        residual: what rounding took from the last update that was made smaller, flat, as
            `residual`.

    Attributes:
        residual: the same after `compress`.
    """

    def __init__(self, kind: str, residual: NDArray[np.float32] | None = None):
        self._kind = kind
        self.residual = residual

    def compress(self, contents: Contents, buffers: Buffers) -> Buffers:
        """An update's buffers, smaller.

        Args:
            contents: as of `consortium.protocol.codec.pack`.
            buffers: by dtype; not changed.
        """
        whole = buffers.get(_WHOLE)
        if whole is None:
            return buffers
        large, small = _split(contents)
        values = _gather(whole, large)
        if self.residual is not None and self.residual.shape == values.shape:
            values += self.residual
        lengths = [stop - start for start, stop in large]
        with np.errstate(all="ignore"):  # what is not finite is refused where it arrives
            codes, scales = _encode(self._kind, values, lengths)
            residual = values - _decode(self._kind, codes, scales, lengths)
        # Of a training that has broken down nothing is given back.
        self.residual = residual if np.isfinite(residual).all() else np.zeros_like(residual)
        rest = {key: flat for key, flat in buffers.items() if key != _WHOLE}
        return {**rest, _WHOLE: _gather(whole, small), _CODES: codes, _SCALES: scales}


def decompress(kind: str, contents: Any, buffers: Mapping[str, NDArray[Any]]) -> Buffers:
    """Undoes `ErrorFeedbackCompressor.compress`, but for what rounding took.

    Raises:
        ValueError: the contents and the buffers do not fit exactly.
    """
    try:
        large, small = _split(contents)
        rest, codes, scales = buffers[_WHOLE], buffers[_CODES], buffers[_SCALES]
        lengths = [stop - start for start, stop in large]
        whole = np.empty(sum(stop - start for start, stop in (*large, *small)), np.float32)
        _scatter(whole, small, rest)
        with np.errstate(all="ignore"):
            _scatter(whole, large, _decode(kind, codes, scales, lengths))
    except (TypeError, KeyError, AttributeError, IndexError) as error:
        raise ValueError(f"malformed ({type(error).__name__})") from None
    others = {key: flat for key, flat in buffers.items() if key not in (_CODES, _SCALES)}
    return {**others, _WHOLE: whole}


Spans = list[tuple[int, int]]


def _split(contents: Any) -> tuple[Spans, Spans]:
    """Where the large and the small float32 tensors lie in their buffer."""
    large: Spans = []
    small: Spans = []
    start = 0
    for _, dtype, shape in contents:
        if dtype == _WHOLE:
            if any(side < 0 for side in shape):
                raise ValueError("contents do not fit")
            size = prod(shape)
            (large if size >= FEWEST else small).append((start, start + size))
            start += size
    return large, small


def _gather(flat: NDArray[np.float32], spans: Spans) -> NDArray[np.float32]:
    return np.concatenate([flat[start:stop] for start, stop in spans] or [flat[:0]])


def _scatter(flat: NDArray[np.float32], spans: Spans, values: NDArray[np.float32]) -> None:
    if values.dtype != np.float32 or values.shape != (sum(stop - start for start, stop in spans),):
        raise ValueError("contents do not fit")
    taken = 0
    for start, stop in spans:
        flat[start:stop] = values[taken : taken + stop - start]
        taken += stop - start


def _encode(
    kind: str, values: NDArray[np.float32], lengths: list[int]
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Codes and scales; of bfloat16 there are none of the latter."""
    if kind == "bfloat16":
        bits = values.view(np.uint32)
        # To the nearest, and to the even one of two.
        rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        odd = np.isnan(values)
        rounded[odd] = bits[odd] | np.uint32(0x400000)  # what is no number stays none
        return (rounded >> np.uint32(16)).astype(np.uint16), np.empty(0, np.float32)
    codes = np.empty(values.size, np.int8)
    scales = []
    for part, place in _parts(values, lengths):
        blocks = _in_blocks(part)
        scale = np.abs(blocks).max(axis=1, initial=0) / np.float32(_STEPS)
        steps = blocks / np.where(scale > 0, scale, np.float32(1))[:, None]
        codes[place] = np.rint(steps).reshape(-1)[: part.size].astype(np.int8)
        scales.append(scale)
    return codes, np.concatenate(scales or [np.empty(0, np.float32)])


def _decode(
    kind: str, codes: NDArray[Any], scales: NDArray[np.float32], lengths: list[int]
) -> NDArray[np.float32]:
    if kind == "bfloat16":
        if codes.dtype != np.uint16 or codes.shape != (sum(lengths),) or scales.size:
            raise ValueError("codes do not fit")
        return (codes.astype(np.uint32) << np.uint32(16)).view(np.float32)
    counts = [-(-length // BLOCK) for length in lengths]
    if codes.dtype != np.int8 or codes.shape != (sum(lengths),):
        raise ValueError("codes do not fit")
    if scales.dtype != np.float32 or scales.shape != (sum(counts),):
        raise ValueError("scales do not fit")
    values = np.empty(codes.size, np.float32)
    taken = 0
    for (part, place), count in zip(_parts(codes, lengths), counts, strict=True):
        spread = np.repeat(scales[taken : taken + count], BLOCK)[: part.size]
        values[place] = part * spread
        taken += count
    return values


def _parts(flat: NDArray[Any], lengths: list[int]) -> Iterator[tuple[NDArray[Any], slice]]:
    start = 0
    for length in lengths:
        place = slice(start, start + length)
        yield flat[place], place
        start += length


def _in_blocks(part: NDArray[np.float32]) -> NDArray[np.float32]:
    """(blocks, `BLOCK`), filled up with zeros."""
    blocks = np.zeros((-(-part.size // BLOCK), BLOCK), np.float32)
    blocks.reshape(-1)[: part.size] = part
    return blocks
