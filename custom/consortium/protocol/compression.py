"""Compresses updates; what rounding removes is added to the hospital's next update.

`bfloat16` keeps 8 bits of a number's significand and takes half of the bytes. `int8` stores, for
each block of 256 elements of a tensor, the largest magnitude m and every element as a whole number
of m / 127; it takes a quarter of the bytes. The residual, which rounding removes, stays at the
hospital and is added to its next update (error feedback: Seide et al., Interspeech 2014;
Karimireddy et al., ICML 2019, algorithm 2). Over the rounds nothing is lost, only delayed. Use it
for a large model on a slow network. It hides nothing. It is off unless the settings ask for it
(`update.compression`).

Tensors of fewer than 1,024 elements (such as batch-norm statistics) and tensors that are not
float32 are never compressed. The residual of a round is on the hospital's disk before the update
leaves. A decompressed update has the sizes that its contents declare, or is refused. Nothing here
needs torch.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from consortium.core.files import replace_file
from consortium.protocol.buffers import Buffers, Contents
from consortium.protocol.step import Plain, Step

BLOCK = 256
"""Elements that share a scale."""
MIN_ELEMENTS = 1024
"""Smallest size of a tensor that is compressed."""
_WHOLE, _CODES, _SCALES = "float32", "float32.codes", "float32.scales"
_STEPS = 127


@dataclass(frozen=True, slots=True)
class Compression(Step):
    """The step of a pipeline that compresses updates.

    Attributes:
        kind: `bfloat16` or `int8`.
    """

    name: ClassVar[str] = "compression"
    needs_plain_updates: ClassVar[bool] = True
    keeps_state: ClassVar[bool] = True

    kind: str

    def client(self, buffers: Buffers, plain: Plain, folder: Path) -> tuple[Buffers, Plain]:
        """Compresses an update and stores the residual of its round."""
        residuals, number = ResidualStore(folder), plain["round"]
        compressor = ErrorFeedbackCompressor(self.kind, residuals.load(before_round=number))
        compressed = compressor.compress(plain["contents"], buffers)
        if compressor.residual is not None:
            residuals.save(number, compressor.residual)
        return compressed, {**plain, self.name: self.kind}

    def server(
        self, buffers: Mapping[str, NDArray[Any]], plain: Plain
    ) -> tuple[Mapping[str, NDArray[Any]], Plain]:
        """Decompresses an update.

        Raises:
            ValueError: the update was not compressed this way, or its parts do not fit.
        """
        if plain.get(self.name) != self.kind:
            raise ValueError(f"the update is not compressed as {self.kind}")
        rest = {key: value for key, value in plain.items() if key != self.name}
        return decompress(self.kind, plain.get("contents"), buffers), rest


class ResidualStore:
    """The residuals of one run at a hospital, one file a round.

    The last two rounds are kept, because a run that resumes after a kill may repeat a round.

    Args:
        folder: the hospital's folder of the run.
    """

    def __init__(self, folder: Path):
        self._folder = folder

    def load(self, before_round: int) -> NDArray[np.float32] | None:
        """Loads the residual of the last earlier round; None if no residual can be read."""
        earlier = [path for path in self._files() if path.name < _file_name(before_round)]
        with suppress(OSError, SafetensorError, KeyError, IndexError):
            residual: NDArray[np.float32] = load_file(earlier[-1])["residual"]
            return residual
        return None

    def save(self, round_number: int, residual: NDArray[np.float32]) -> None:
        """Stores the residual of a round, keeps the previous one and removes all older ones.

        Raises:
            EnvironmentProblem: `disk-full` or `cannot-write`.
        """
        path = self._folder / _file_name(round_number)
        replace_file(path, lambda partial: save_file({"residual": residual}, partial))
        for stale in [other for other in self._files() if other.name <= path.name][:-2]:
            stale.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("residual-*.safetensors"))


def _file_name(round_number: int) -> str:
    return f"residual-{round_number:06d}.safetensors"


class ErrorFeedbackCompressor:
    """Compresses a hospital's updates with error feedback.

    Args:
        kind: `bfloat16` or `int8`.
        residual: what rounding removed from the previous update, flat; None for the first update.

    Attributes:
        residual: what rounding removed in the last call of `compress`.
    """

    def __init__(self, kind: str, residual: NDArray[np.float32] | None = None):
        self._kind = kind
        self.residual = residual

    def compress(self, contents: Contents, buffers: Buffers) -> Buffers:
        """Compresses an update's buffers.

        Args:
            contents: see `consortium.protocol.codec.pack`.
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
        with np.errstate(all="ignore"):  # the orchestrator refuses values that are not finite
            codes, scales = _encode(self._kind, values, lengths)
            residual = values - _decode(self._kind, codes, scales, lengths)
        # A training that has broken down passes nothing on to the next round.
        self.residual = residual if np.isfinite(residual).all() else np.zeros_like(residual)
        rest = {key: flat for key, flat in buffers.items() if key != _WHOLE}
        return {**rest, _WHOLE: _gather(whole, small), _CODES: codes, _SCALES: scales}


def decompress(kind: str, contents: Any, buffers: Mapping[str, NDArray[Any]]) -> Buffers:
    """Undoes `ErrorFeedbackCompressor.compress`, except for the rounding.

    Raises:
        ValueError: the contents and the buffers do not fit exactly.
    """
    try:
        large, small = _split(contents)
        if not large and not small and _CODES not in buffers:
            return dict(buffers)  # no float32 tensor: `compress` changed nothing
        rest, codes, scales = buffers[_WHOLE], buffers[_CODES], buffers[_SCALES]
        lengths = [stop - start for start, stop in large]
        with np.errstate(all="ignore"):
            values = _decode(kind, codes, scales, lengths)
        whole = np.empty(values.size + rest.size, np.float32)  # as many as arrived, not as declared
        _scatter(whole, small, rest)
        _scatter(whole, large, values)
    except (TypeError, AttributeError, ArithmeticError, LookupError) as error:
        raise ValueError(f"malformed ({type(error).__name__})") from None
    others = {key: flat for key, flat in buffers.items() if key not in (_CODES, _SCALES)}
    return {**others, _WHOLE: whole}


Spans = list[tuple[int, int]]


def _split(contents: Any) -> tuple[Spans, Spans]:
    """Returns the spans of the large and of the small float32 tensors in their buffer."""
    large: Spans = []
    small: Spans = []
    start = 0
    for _, dtype, shape in contents:
        if dtype == _WHOLE:
            if any(side < 0 for side in shape):
                raise ValueError("contents do not fit")
            size = prod(shape)
            (large if size >= MIN_ELEMENTS else small).append((start, start + size))
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
    """Returns codes and scales; bfloat16 has no scales."""
    if kind == "bfloat16":
        bits = values.view(np.uint32)
        # Rounds to the nearest value, and ties to even.
        rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        nan = np.isnan(values)
        rounded[nan] = bits[nan] | np.uint32(0x400000)  # NaN stays NaN
        return (rounded >> np.uint32(16)).astype(np.uint16), np.empty(0, np.float32)
    codes = np.empty(values.size, np.int8)
    scales = []
    for part, span in _parts(values, lengths):
        blocks = _in_blocks(part)
        scale = np.abs(blocks).max(axis=1, initial=0) / np.float32(_STEPS)
        steps = blocks / np.where(scale > 0, scale, np.float32(1))[:, None]
        codes[span] = np.rint(steps).reshape(-1)[: part.size].astype(np.int8)
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
    for (part, span), count in zip(_parts(codes, lengths), counts, strict=True):
        spread = np.repeat(scales[taken : taken + count], BLOCK)[: part.size]
        values[span] = part * spread
        taken += count
    return values


def _parts(flat: NDArray[Any], lengths: list[int]) -> Iterator[tuple[NDArray[Any], slice]]:
    start = 0
    for length in lengths:
        span = slice(start, start + length)
        yield flat[span], span
        start += length


def _in_blocks(part: NDArray[np.float32]) -> NDArray[np.float32]:
    """Reshapes to (blocks, `BLOCK`), padded with zeros."""
    blocks = np.zeros((-(-part.size // BLOCK), BLOCK), np.float32)
    blocks.reshape(-1)[: part.size] = part
    return blocks
