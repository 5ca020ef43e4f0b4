"""Letters that were burnt into an X-ray near its border: a name, perhaps, that no header holds.

What is looked for: bright pieces on a darker ground, of the size of letters, several of one height
in a line. A single letter of lead that says the side is no text. What is written there is never
read. What it does not find: text that is dark, handwritten, very small or in the X-ray's middle.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label

FEWEST_LETTERS = 4
BORDER = 0.15
"""Share of the side, all around, in which text is looked for."""

_BRIGHT, _GROUND = 0.8, 0.7
"""Shares of the brightest value: what a letter reaches, and what the ground around it does not."""
_HEIGHTS = (0.012, 0.08)
"""Of a letter, as shares of the X-ray's rows."""
_FEWEST_ROWS = 5
_WIDTHS = (0.12, 1.5)
"""Of a letter, as shares of its height."""
_ALIKE = 0.7
"""Least quotient of the heights of two letters of a line."""
_GAP = 2.0
"""Largest gap between letters, as a share of their height."""
_SIDE = 1024
"""Pixels of the smaller side from which on an X-ray is reduced before it is looked at."""


@dataclass(frozen=True, slots=True)
class _Box:
    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def middle(self) -> float:
        return (self.top + self.bottom) / 2


def count_letters(values: NDArray[np.float32]) -> int:
    """How many letters the longest line of text near the border has.

    Args:
        values: of an X-ray, (rows, columns), from 0 to 1.

    Returns:
        0 for fewer than `FEWEST_LETTERS`.
    """
    letters = _letters(_reduce(values))
    longest = max((_longest_run(_line_of(letter, letters)) for letter in letters), default=0)
    return longest if longest >= FEWEST_LETTERS else 0


def _reduce(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """By a whole number, by means of squares."""
    step = min(values.shape) // _SIDE
    if step < 2:
        return values
    rows, columns = (length // step for length in values.shape)
    squares = values[: rows * step, : columns * step].reshape(rows, step, columns, step)
    return np.asarray(squares.mean((1, 3)), np.float32)


def _letters(values: NDArray[np.float32]) -> list[_Box]:
    rows, columns = values.shape
    brightest = float(values.max())
    bright = values >= _BRIGHT * brightest
    high, wide = int(BORDER * rows), int(BORDER * columns)
    bright[high : rows - high, wide : columns - wide] = False
    pieces, _ = label(bright, np.ones((3, 3)))
    boxes = (
        _Box(down.start, down.stop, across.start, across.stop)
        for down, across in find_objects(pieces)
    )
    return [
        box
        for box in boxes
        if _like_a_letter(box, rows, columns)
        and np.median(_frame(values, box)) <= _GROUND * brightest
    ]


def _like_a_letter(box: _Box, rows: int, columns: int) -> bool:
    least, most = max(_FEWEST_ROWS, _HEIGHTS[0] * rows), _HEIGHTS[1] * rows
    narrow, broad = (share * box.height for share in _WIDTHS)
    whole = box.top > 0 and box.left > 0 and box.bottom < rows and box.right < columns
    return least <= box.height <= most and narrow <= box.right - box.left <= broad and whole


def _frame(values: NDArray[np.float32], box: _Box) -> NDArray[Any]:
    """The pixels just around a box that does not touch the X-ray's edge."""
    around = values[box.top - 1 : box.bottom + 1, box.left - 1 : box.right + 1]
    return np.concatenate([around[0], around[-1], around[:, 0], around[:, -1]])


def _line_of(letter: _Box, letters: Sequence[_Box]) -> list[_Box]:
    """The letters of about its height and place, from left to right."""
    mates = [
        other
        for other in letters
        if abs(other.middle - letter.middle) <= letter.height / 4
        and _ALIKE <= other.height / letter.height <= 1 / _ALIKE
    ]
    return sorted(mates, key=lambda other: other.left)


def _longest_run(line: Sequence[_Box]) -> int:
    longest = run = 1
    for one, following in pairwise(line):
        near = following.left - one.right <= _GAP * one.height
        run = run + 1 if near else 1
        longest = max(longest, run)
    return longest
