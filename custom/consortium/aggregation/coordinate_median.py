"""The weighted median of every coordinate.

Yin et al., ICML 2018, definition 1, with weights: of each element the smallest value at which half
of the hospitals' weight is reached; where exactly half is reached, the mean of it and the next.
When to use it: many hospitals of like size and like data, of which less than half of the weight may
be hostile. What it costs without an attacker: where hospitals differ, a median is not a mean, and
small hospitals whose data are unlike the others' are not heard at all; with one hospital of more
than half of the weight it is that hospital's update alone. What it does not stop: attackers that
together hold half of the weight, and changes that stay between the honest ones at every coordinate.
"""

import numpy as np
from numpy.typing import NDArray

from consortium.aggregation.coordinates import Coordinates, Workplace
from consortium.aggregation.sorting import sort_rows, unmark


class CoordinateMedian(Coordinates):
    """Weighted coordinate-wise median; see the module."""

    def _equal(self, rows: list[NDArray[np.float32]], place: Workplace) -> NDArray[np.floating]:
        lower, upper = (len(rows) - 1) // 2, len(rows) // 2
        rows = sort_rows(rows, place.spare_single[: rows[0].size], {lower, upper})
        if lower != upper:
            np.add(rows[lower], rows[upper], out=rows[lower])
            rows[lower] *= 0.5
        return rows[lower]

    def _weighted(self, rows: list[NDArray[np.float64]], place: Workplace) -> NDArray[np.float64]:
        # The furthest rank of the median: that at which the lightest hospitals pass half.
        passed = np.cumsum(np.sort(place.weights)) > place.total // 2
        last = int(np.argmax(passed))
        rows = sort_rows(rows, place.spare_double[: rows[0].size], range(last + 1))
        size = rows[0].size
        weight, reached = place.words[0][:size], place.words[1][:size]
        below, upper = place.truth[:size], place.double[:size]
        lower = rows[0]
        unmark(lower, reached)
        upper[:] = lower
        for row in rows[1 : last + 1]:
            unmark(row, weight)
            np.less_equal(reached, (place.total - 1) // 2, out=below)
            np.copyto(lower, row, where=below)
            if place.ties:
                np.less_equal(reached, place.total // 2, out=below)
                np.copyto(upper, row, where=below)
            reached += weight
        if place.ties:
            lower += upper
            lower *= 0.5
        return lower
