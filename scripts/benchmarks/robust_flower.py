"""Times Flower's robust rules for the benchmark `robust`; runs in Flower's own environment.

    python robust_flower.py HOSPITALS ELEMENTS TURNS TRIM

Prints the seconds of each turn by rule, as JSON. The updates are those of the benchmark.
"""

import json
import sys
import time

import numpy as np
from flwr.server.strategy.aggregate import aggregate_median, aggregate_trimmed_avg

hospitals, elements, turns = (int(word) for word in sys.argv[1:4])
trim = float(sys.argv[4])
rng = np.random.default_rng(0)
updates = [
    ([rng.standard_normal(elements, np.float32) * np.float32(1e-3)], 100) for _ in range(hospitals)
]
seconds = {"coordinate_median": [], "trimmed_mean": []}
for _ in range(turns):
    started = time.perf_counter()
    aggregate_median(updates)
    seconds["coordinate_median"].append(time.perf_counter() - started)
    started = time.perf_counter()
    aggregate_trimmed_avg(updates, trim)
    seconds["trimmed_mean"].append(time.perf_counter() - started)
print(json.dumps(seconds))
