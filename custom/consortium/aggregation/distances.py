"""Distances between the hospitals' updates.

Differences are computed first and then squared, a block of all hospitals at a time. A Gram matrix
(`|x|^2 + |y|^2 - 2 x.y`) is faster but loses the small differences between long updates.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from consortium.aggregation.rule import as_floats, squared_norm
from consortium.protocol.schema import ModelSchema, State

_BLOCK = 1 << 13  # elements of every hospital that fit the cache together


def squared_distances(schema: ModelSchema, states: Sequence[State]) -> NDArray[np.float64]:
    """Computes the squared L2 distances of all pairs, (n, n), with a relative error near 1e-6.

    Args:
        schema: schema of the tensors to compare.
        states: tensors of the n hospitals.
    """
    squared = np.zeros((len(states), len(states)))
    for name in schema:
        rows = [as_floats(state[name]) for state in states]
        for start in range(0, rows[0].size, _BLOCK):
            blocks = [row[start : start + _BLOCK] for row in rows]
            for first, second in combinations(range(len(rows)), 2):
                squared[first, second] += squared_norm(blocks[first], blocks[second])
    return squared + squared.T
