"""Measures robust rules: their error without an attacker and with one, and their speed.

Errors: eight hospitals, 94-fold apart in size, with class mixes as different as those of a real
consortium of breast MRI. A hospital's optimum is `A p + e`: p is its class mix, A a random map into
64 dimensions, e the sampling error, `N(0, 9 / n)`. The pooled optimum is `A p` of all patients
together. An honest update leads from the model to the hospital's optimum; attackers send something
else. The error is the distance of the model from the pooled optimum over the norm of that optimum,
after one round and after many.

Speed: one thread, ten million parameters, hospitals of equal and of different weights, against
Flower's functions, which have no weights.

Note: against the largest hospital no rule can do much better than to exclude it, as nobody else has
its patients. The error of excluding it has its own row.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scripts.benchmarks.flower import run_in_flower
from scripts.benchmarks.report import LEAST, Row, make_row

from consortium.aggregation import RULES
from consortium.aggregation.rule import InvalidUpdate
from consortium.protocol.schema import Reduction, TensorSpec

_CASES = np.array([17800, 6130, 3600, 3450, 1780, 1120, 350, 190])
_MIXES = np.array(
    [
        [27, 66, 7],
        [87, 12, 1],
        [99, 0, 1],
        [55, 36, 9],
        [94, 3, 3],
        [81, 11, 8],
        [1, 36, 63],
        [84, 0, 16],
    ]
)
"""Percentage of three classes at each hospital."""
_LARGEST, _MIDDLE, _SMALLEST = 0, 3, 7
_DIMENSIONS, _NOISE = 64, 3.0
_TRIALS, _ROUNDS = 20, 60
_FULL_STEPS = 30  # rounds; those after them take steps of 0.3

Vectors = NDArray[np.float64]
"""(hospitals, dimensions)."""
Attack = Callable[[Vectors, NDArray[np.float64]], None]
"""Changes a round's updates, given the pooled optimum."""


def _against(*hospitals: int, scale: float) -> Attack:
    def attack(updates: Vectors, optimum: NDArray[np.float64]) -> None:
        updates[list(hospitals)] = -scale * optimum

    return attack


def _scale(hospital: int, factor: float) -> Attack:
    def attack(updates: Vectors, optimum: NDArray[np.float64]) -> None:
        updates[hospital] *= factor

    return attack


def _inner_product(updates: Vectors, optimum: NDArray[np.float64]) -> None:
    # Xie et al., UAI 2019: a small step against the mean of the others.
    others = np.delete(updates, _MIDDLE, 0)
    updates[_MIDDLE] = -0.5 * np.average(others, 0, np.delete(_CASES, _MIDDLE))


ATTACKS: Mapping[str, Attack] = {
    "nobody": lambda updates, optimum: None,
    "smallest, against, 1x": _against(_SMALLEST, scale=1),
    "smallest, against, 10x": _against(_SMALLEST, scale=10),
    "smallest, against, 1000x": _against(_SMALLEST, scale=1000),
    "two smallest, against, 1000x": _against(6, 7, scale=1000),
    "second and third, against, 1000x": _against(1, 2, scale=1000),
    "one of 10 %, sign flipped": _scale(_MIDDLE, -1),
    "one of 10 %, inner product": _inner_product,
    "largest, own change, 1000x": _scale(_LARGEST, 1000),
    "largest, against, 1000x": _against(_LARGEST, scale=1000),
}


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A rule, its options, and its maximum error after one round, by attack."""

    rule: str
    options: Mapping[str, Any]
    targets: Mapping[str, float]

    @property
    def name(self) -> str:
        """Name for the tables."""
        return " ".join([self.rule, *(f"{key} {value:g}" for key, value in self.options.items())])


_NOBODY, _SMALL, _OWN = "nobody", "smallest, against, 1000x", "largest, own change, 1000x"
CANDIDATES = [
    _Candidate("weighted_mean", {}, {}),
    _Candidate("norm_clipping", {}, {_NOBODY: 0.032, _SMALL: 0.04}),
    _Candidate("norm_clipping", {"clip": 1.0}, {}),
    _Candidate("norm_clipping", {"max_share": 0.4}, {_OWN: 0.5}),
    _Candidate("norm_clipping", {"max_share": 0.3}, {_OWN: 0.5}),
    _Candidate("geometric_median", {}, {}),
    _Candidate("geometric_median", {"max_share": 0.3}, {}),
    _Candidate("coordinate_median", {}, {}),
    _Candidate("coordinate_median", {"max_share": 0.3}, {}),
    _Candidate("trimmed_mean", {"trim": 0.05}, {}),
    _Candidate("trimmed_mean", {"trim": 0.2}, {}),
    _Candidate("trimmed_mean", {"trim": 0.2, "max_share": 0.125}, {}),
    _Candidate("multi_krum", {}, {}),
]
_SCHEMA = {"w": TensorSpec(torch.float32, (_DIMENSIONS,), Reduction.MEAN)}

_ELEMENTS = 10_000_000
_TRIM = 0.2
_FASTER = {
    ("coordinate_median", 16): 20,
    ("coordinate_median", 64): 8,
    ("trimmed_mean", 16): 10,
    ("trimmed_mean", 64): 8,
}
"""Minimum speed-up over Flower's rule, with equal weights."""


def measure(quick: bool) -> list[Row]:
    """Measures errors and speed.

    Args:
        quick: one trial, three rounds, two rules; speed with few elements and without Flower.
    """
    candidates = CANDIDATES[:2] if quick else CANDIDATES
    rows = _errors(candidates, 1 if quick else _TRIALS, 3 if quick else _ROUNDS)
    for hospitals in [4] if quick else [16, 64]:
        rows += _speed(hospitals, 1000 if quick else _ELEMENTS, quick)
    return rows


def _errors(candidates: list[_Candidate], trials: int, rounds: int) -> list[Row]:
    tables = {"one round": Table(title="after one round"), "many": Table(title=f"after {rounds}")}
    for table in tables.values():
        for column in ("rule", *ATTACKS):
            table.add_column(column, justify="left" if column == "rule" else "right")
    rows = []
    for candidate in candidates:
        cells: dict[str, list[str]] = {name: [candidate.name] for name in tables}
        for name, attack in ATTACKS.items():
            found = [_trial(candidate, attack, seed, rounds) for seed in range(trials)]
            for when, errors in zip(tables, zip(*found, strict=True), strict=True):
                cells[when].append(f"{statistics.median(errors):.3f}")
                target = candidate.targets.get(name) if trials >= LEAST else None
                if target is not None and when == "one round":
                    case = f"{candidate.name}; {name}"
                    rows.append(make_row(case, errors, "of the optimum", target=target))
        for when, table in tables.items():
            table.add_row(*cells[when])
    left_out = [_without_largest(seed) for seed in range(trials)]
    rows.append(make_row("weighted mean of all but the largest", left_out, "of the optimum"))
    for table in tables.values():
        Console(width=250, highlight=False).print(table)
    return rows


def _draw(seed: int) -> tuple[Vectors, NDArray[np.float64]]:
    """Draws the hospitals' optima and the pooled optimum."""
    rng = np.random.default_rng(seed)
    project = rng.standard_normal((3, _DIMENSIONS))
    mixes = _MIXES / _MIXES.sum(axis=1, keepdims=True)
    noise = rng.standard_normal((len(_CASES), _DIMENSIONS)) * _NOISE / np.sqrt(_CASES)[:, None]
    return mixes @ project + noise, np.average(mixes, 0, _CASES) @ project


def _error(model: NDArray[np.float64], optimum: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(model - optimum) / np.linalg.norm(optimum))


def _without_largest(seed: int) -> float:
    optima, optimum = _draw(seed)
    return _error(np.average(optima[1:], 0, _CASES[1:]), optimum)


def _trial(candidate: _Candidate, attack: Attack, seed: int, rounds: int) -> tuple[float, float]:
    """Returns the errors after the first round and after all."""
    optima, optimum = _draw(seed)
    rule = RULES[candidate.rule](_SCHEMA, **candidate.options)
    model, first = np.zeros(_DIMENSIONS), 0.0
    for number in range(rounds):
        updates = optima - model
        attack(updates, optimum)
        rule.reset()
        for index, update in enumerate(updates):
            try:
                tensors = {"w": torch.from_numpy(update.astype(np.float32))}
                rule.add(f"h{index}", tensors, int(_CASES[index]))
            except InvalidUpdate:
                continue  # the update exceeds the bound of all updates, so it is refused
        change = rule.aggregate().change["w"].double().numpy()
        model = model + change * (1.0 if number < _FULL_STEPS else 0.3)
        if not number:
            first = _error(model, optimum)
    return first, _error(model, optimum)


def _speed(hospitals: int, elements: int, quick: bool) -> list[Row]:
    schema = {"w": TensorSpec(torch.float32, (elements,), Reduction.MEAN)}
    rng = np.random.default_rng(0)
    updates = [
        torch.from_numpy(rng.standard_normal(elements, np.float32) * np.float32(1e-3))
        for _ in range(hospitals)
    ]
    turns = 1 if quick else LEAST
    flower: dict[str, list[float]] = {}
    if not quick:
        words = [str(word) for word in (hospitals, elements, turns, _TRIM)]
        flower = run_in_flower("robust_flower.py", *words, patience=1800)
    weights = {
        "equal weights": [100] * hospitals,
        "weights 94-fold apart": [int(w) for w in np.geomspace(190, 17_800, hospitals)],
    }
    rows = []
    for name in ("coordinate_median", "trimmed_mean", "geometric_median"):
        theirs = flower.get(name)
        if theirs is not None:
            rows.append(make_row(f"{hospitals} hospitals, {name}: Flower", theirs, "s"))
        for kind, cases in weights.items():
            seconds = [_time(name, schema, updates, cases) for _ in range(turns)]
            case = f"{hospitals} hospitals, {name}, {kind}"
            rows.append(make_row(case, seconds, "s"))
            print(f"{case}: {rows[-1].value:.2f} s", flush=True)
            if theirs is not None:
                faster = _FASTER[name, hospitals] if kind == "equal weights" else None
                shares = [our / their for our, their in zip(seconds, theirs, strict=True)]
                rows.append(
                    make_row(f"{case}, of Flower's", shares, "", target=faster and 1 / faster)
                )
    return rows


def _time(
    name: str, schema: Mapping[str, TensorSpec], updates: list[torch.Tensor], cases: list[int]
) -> float:
    options = {"trim": _TRIM} if name == "trimmed_mean" else {}
    rule = RULES[name](schema, **options)
    for index, update in enumerate(updates):
        rule.add(f"h{index:03d}", {"w": update}, cases[index])
    started = time.perf_counter()
    rule.aggregate()
    return time.perf_counter() - started
