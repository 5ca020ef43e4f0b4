"""Times the aggregation of one update, against one pass over the same memory and FLARE's helper.

The unit is one pass of `torch.Tensor.add_` over tensors of the same sizes. It is measured right
before each update, so that other work on the machine affects both. Our rule checks every element,
refuses values that are not finite or beyond the bound, and sums exactly; FLARE's helper does none
of this. Two updates alternate, so that neither stays in a cache.

Invariants: one thread for each row, unless the row names two; the first update of each way, which
touches fresh memory, is not counted.
"""

import statistics
import time
import tracemalloc
from collections.abc import Callable, Mapping

import numpy as np
import torch
from nvflare.app_common.aggregators.weighted_aggregation_helper import WeightedAggregationHelper
from scripts.benchmarks.report import Row, make_row
from torch import Tensor

from consortium.aggregation.weighted_mean import WeightedMean
from consortium.protocol.schema import ModelSchema, Reduction, TensorSpec

_MODELS = {
    "60M in 49": (60_000_000, 49),
    "25M in 267": (25_000_000, 267),
    "10M in 49": (10_000_000, 49),
}
"""Numbers of elements and tensors; ResNet-50 has 267 tensors."""
_TURNS = 15
_CASES = 500
_CHANGE = 1e-3  # standard deviation
_NUMPY, _NUMBA = "ours, numpy", "ours, numba"
_TARGETS = {_NUMPY: 4.0, _NUMBA: 2.5}  # passes

Take = Callable[[Mapping[str, Tensor]], object]


def measure(quick: bool) -> list[Row]:
    """Times each way of aggregation for each model.

    Args:
        quick: one small model, three updates.
    """
    models = {"0.1M in 9": (100_000, 9)} if quick else _MODELS
    rows = []
    for name, (elements, tensors) in models.items():
        schema = lay_out(elements, tensors)
        generator = torch.Generator().manual_seed(0)
        updates = [
            {
                each: torch.randn(spec.shape, generator=generator) * _CHANGE
                for each, spec in schema.items()
            }
            for _ in range(2)
        ]
        passes = _pass_over(schema)
        for threads in (1, 2):
            rows += _rows(
                f"{name}, {threads} thread{'s' * (threads > 1)}",
                schema,
                updates,
                passes,
                threads,
                quick,
            )
        rows.append(_memory(name, schema, updates))
    return rows


def lay_out(elements: int, tensors: int) -> dict[str, TensorSpec]:
    """Makes a schema of given numbers of elements and tensors: a fifth large, the rest vectors."""
    large = max(1, tensors // 5)
    sizes = [64 << (index % 6) for index in range(tensors - large)]
    shares = np.arange(1, large + 1) ** 2.0
    sizes += [int((elements - sum(sizes)) * share / shares.sum()) for share in shares]
    return {
        f"{index:03d}": TensorSpec(torch.float32, (size,), Reduction.MEAN)
        for index, size in enumerate(sizes)
    }


def _pass_over(schema: ModelSchema) -> Take:
    sums = {name: torch.zeros(spec.shape) for name, spec in schema.items()}

    def add(update: Mapping[str, Tensor]) -> None:
        for name, total in sums.items():
            total.add_(update[name])

    return add


def _ways(schema: ModelSchema, threads: int) -> dict[str, Take]:
    ways: dict[str, Take] = {}
    for name, compiled in ((_NUMPY, False), (_NUMBA, True)):
        rule = WeightedMean(schema, threads=threads, compiled=compiled)
        ways[name] = lambda update, rule=rule: rule.add("hospital", update, _CASES)
    if threads == 1:
        for name, convert in (
            ("FLARE's helper, numpy", Tensor.numpy),
            ("FLARE's helper, torch", Tensor.detach),
        ):
            helper = WeightedAggregationHelper()
            ways[name] = lambda update, helper=helper, convert=convert: helper.add(
                {each: convert(tensor) for each, tensor in update.items()}, _CASES, "hospital", 0
            )
    return ways


def _rows(
    case: str,
    schema: ModelSchema,
    updates: list[dict[str, Tensor]],
    passes: Take,
    threads: int,
    quick: bool,
) -> list[Row]:
    ways = _ways(schema, threads)
    for take in (passes, *ways.values()):
        take(updates[0])
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    seconds: list[float] = []
    for turn in range(3 if quick else _TURNS):
        for name, take in ways.items():
            unit = _time(passes, updates[turn % 2])
            ratios[name].append(_time(take, updates[(turn + 1) % 2]) / unit)
            seconds.append(unit)
    unit = statistics.median(seconds)
    rows = [make_row(f"{case}: one pass of torch", [1000 * second for second in seconds], "ms")]
    for name, found in ratios.items():
        target = _TARGETS.get(name) if threads == 1 and not quick else None
        rows.append(make_row(f"{case}: {name}", found, "passes", target=target))
        print(f"{rows[-1].case}: {rows[-1].value:.2f} passes of {1000 * unit:.1f} ms", flush=True)
    return rows


def _time(take: Take, update: Mapping[str, Tensor]) -> float:
    started = time.perf_counter()
    take(update)
    return time.perf_counter() - started


def _memory(name: str, schema: ModelSchema, updates: list[dict[str, Tensor]]) -> Row:
    """Measures the rule's peak memory while it adds updates, in float32 models."""
    tracemalloc.start()
    rule = WeightedMean(schema, compiled=False)
    for update in updates:
        rule.add("hospital", update, _CASES)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    model = 4 * sum(int(np.prod(spec.shape)) for spec in schema.values())
    return make_row(f"{name}: memory in addition to the update", [most / model], "models")
