"""Detects text burnt into an X-ray near its border, such as a name that no header holds.

Text is a line of bright components on a darker background, all of one height and of the size of
letters. A single lead letter that marks the side does not count. The text itself is never read.
Dark, handwritten or very small text, and text in the middle of the X-ray, is not detected.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label

MIN_LETTERS = 4
BORDER = 0.15
"""Width of the border that is searched, as a share of the X-ray's side."""

_BRIGHT, _GROUND = 0.8, 0.7
"""Shares of the brightest value: the minimum of a letter, the maximum of the background."""
_HEIGHTS = (0.012, 0.08)
"""Range of a letter's height, as shares of the X-ray's rows."""
_MIN_ROWS = 5
_WIDTHS = (0.12, 1.5)
"""Range of a letter's width, as shares of its height."""
_ALIKE = 0.7
"""Minimum ratio of the heights of two letters in a line."""
_GAP = 2.0
"""Maximum gap between letters, as a share of their height."""
_SIDE = 1024
"""Minimum pixels of the shorter side after downsampling."""


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
    """Counts the letters in the longest line of text near the border.

    Args:
        values: an X-ray, (rows, columns), from 0 to 1.

    Returns:
        The count; 0 for fewer than `MIN_LETTERS`.
    """
    letters = _letters(_downsample(values))
    longest = max((_longest_run(_line_of(letter, letters)) for letter in letters), default=0)
    return longest if longest >= MIN_LETTERS else 0


def _downsample(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Downsamples by a whole factor: averages square blocks."""
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
    components, _ = label(bright, np.ones((3, 3)))
    boxes = (
        _Box(down.start, down.stop, across.start, across.stop)
        for down, across in find_objects(components)
    )
    return [
        box
        for box in boxes
        if _letter_sized(box, rows, columns)
        and np.median(_frame(values, box)) <= _GROUND * brightest
    ]


def _letter_sized(box: _Box, rows: int, columns: int) -> bool:
    min_height, max_height = max(_MIN_ROWS, _HEIGHTS[0] * rows), _HEIGHTS[1] * rows
    min_width, max_width = (share * box.height for share in _WIDTHS)
    whole = box.top > 0 and box.left > 0 and box.bottom < rows and box.right < columns
    return (
        min_height <= box.height <= max_height
        and min_width <= box.right - box.left <= max_width
        and whole
    )


def _frame(values: NDArray[np.float32], box: _Box) -> NDArray[Any]:
    """The pixels around a box, which must not touch the X-ray's edge."""
    around = values[box.top - 1 : box.bottom + 1, box.left - 1 : box.right + 1]
    return np.concatenate([around[0], around[-1], around[:, 0], around[:, -1]])


def _line_of(letter: _Box, letters: Sequence[_Box]) -> list[_Box]:
    """The letters on one line with `letter` and of about its height, from left to right."""
    neighbours = [
        other
        for other in letters
        if abs(other.middle - letter.middle) <= letter.height / 4
        and _ALIKE <= other.height / letter.height <= 1 / _ALIKE
    ]
    return sorted(neighbours, key=lambda other: other.left)


def _longest_run(line: Sequence[_Box]) -> int:
    longest = run = 1
    for letter, following in pairwise(line):
        near = following.left - letter.right <= _GAP * letter.height
        run = run + 1 if near else 1
        longest = max(longest, run)
    return longest
