"""The weighted median of every coordinate.

Yin et al., ICML 2018, definition 1, with weights: of each element the smallest value at which half
of the hospitals' weight is reached; where exactly half is reached, the mean of it and the next.
When to use it: many hospitals of like size and like data, of which less than half of the weight may
be hostile. What it costs without an attacker: where hospitals differ, a median is not a mean, and
small hospitals whose data are unlike the others' are not heard at all; with one hospital of more
than half of the weight it is that hospital's update alone. What it does not stop: attackers that
together hold half of the weight, and changes that stay between the honest ones at every coordinate.
"""

from collections.abc import Sequence

import numpy as np

from consortium.aggregation.coordinates import Coordinates, Workplace
from consortium.aggregation.sorting import Row

OPTIONS = {"max_share": None}
"""See `consortium.settings.rules`."""


class CoordinateMedian(Coordinates):
    """Weighted coordinate-wise median; see the module."""

    def _weights_above(self, total: int) -> tuple[int, int]:
        # They differ where a half is a whole number, which can then be reached exactly.
        return total // 2, (total - 1) // 2

    def _factors(self, weights: Sequence[int]) -> Row:
        return np.array([0.5], np.float32)

    def _of_block(self, place: Workplace) -> Row:
        lower, upper = self._weights_above(place.total)
        median = place.quantile(lower)
        if lower != upper and place.is_one_rank(upper):
            median = median + place.quantile(upper)
            median *= np.float32(0.5)
        elif lower != upper:
            place.average_with_next(median, lower)
        return median
