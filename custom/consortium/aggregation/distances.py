"""Distances between the hospitals' updates.

Differences are taken first and squared then, a block of all hospitals at a time. A Gram matrix
(`|x|^2 + |y|^2 - 2 x.y`) is faster and loses what updates that are long and close have apart.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from consortium.aggregation.rule import as_floats, squared_norm
from consortium.protocol.schema import ModelSchema, State

_BLOCK = 1 << 13  # of every hospital, in the cache together


def squared_distances(schema: ModelSchema, states: Sequence[State]) -> NDArray[np.float64]:
    """Squared L2 distances of all pairs, (n, n), right to about 1e-6 of each.

    Args:
        schema: of the tensors that count.
        states: of the n hospitals.
    """
    found = np.zeros((len(states), len(states)))
    for name in schema:
        rows = [as_floats(state[name]) for state in states]
        for start in range(0, rows[0].size, _BLOCK):
            blocks = [row[start : start + _BLOCK] for row in rows]
            for one, other in combinations(range(len(rows)), 2):
                found[one, other] += squared_norm(blocks[one], blocks[other])
    return found + found.T
