"""How often the provenance probe accuses a model that is innocent, and how often it finds a lean.

Scores are drawn, no network is trained: four hospitals with unlike shares of three labels, 160
patients each in training and 120 held out. A patient's scores are normal about 2 for the true
label and 0 for the others, with a standard deviation of 1.5, and may gain the lean times the
label's share at the hospital. Hospitals tell moments of 10 patients or more. So this measures the
tests' own arithmetic at the sizes of a small federation; training networks on generated films
(`consortium.generator.xrays`) is no part of it yet, and what the probe finds there or on real films
is not shown by it.

Scores that differ between hospitals without following any label, "harmless shifts", are a row of
their own: they can lean by chance, which the declared rate of false positives does not cover.

A row's value is a share of runs, and its spread the exact 95 % interval (Clopper and Pearson,
1934). The lower ends of the intervals of false positives have the declared rate as target: above
it, the tests are not consistent with what they declare.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta
from scripts.benchmarks.report import LEAST, Row

from consortium.generator.xrays import LABELS, MIXED
from consortium.provenance.moments import Array, collect
from consortium.provenance.probe import ALPHA, POWER, Lean, hospital_told, judge, lean

_RUNS, _QUICK_RUNS = 200, 5
_TRAINING, _HELD_OUT, _SMALLEST_GROUP = 160, 120, 10
_OWN, _DEVIATION = 2.0, 1.5
_LEANS = (0.25, 0.5, 0.75)
"""In log-odds, for a share that goes from 0 to 1."""
_SHIFT = 0.5
"""Standard deviation of a hospital's shift of each score."""


@dataclass(frozen=True, slots=True)
class _Found:
    """Of one run.

    Attributes:
        confounded: whether the verdict says so.
        told: whether scores tell the hospital.
        lean: of the scores.
    """

    confounded: bool
    told: bool
    lean: Lean


def measure(quick: bool) -> list[Row]:
    """Shares of runs in which the probe speaks up.

    Args:
        quick: 5 runs of each kind instead of 200.
    """
    runs = _QUICK_RUNS if quick else _RUNS
    null = [_run(seed) for seed in range(runs)]
    rows = []
    for case, fired in {
        "no lean: confounded": [found.confounded for found in null],
        "no lean: scores tell the hospital": [found.told for found in null],
    }.items():
        rows += _rate(case, fired, declared=ALPHA)
    for size in _LEANS:
        found = [_run(seed, size=size) for seed in range(runs)]
        rows += _rate(f"lean of {size:g}: confounded", [one.confounded for one in found])
    shifted = [_run(seed, shift=_SHIFT) for seed in range(runs)]
    rows += _rate(f"harmless shifts of {_SHIFT:g}: confounded", [one.confounded for one in shifted])
    detectable = [found.lean.detectable for found in null]
    low, middle, high = np.quantile(detectable, [0.25, 0.5, 0.75])
    case = f"lean that {POWER:.0%} of runs find, as told"
    rows.append(Row(case, float(middle), "log-odds", runs, (float(low), float(high))))
    return rows


def _run(seed: int, *, size: float = 0.0, shift: float = 0.0) -> _Found:
    """One federation's verdict.

    Args:
        seed: of patients and scores.
        size: of the lean.
        shift: standard deviation of what a hospital adds to each score, whatever the label.
    """
    rng = np.random.default_rng(seed)
    places = {label: place for place, label in enumerate(LABELS)}
    shares: dict[str, Mapping[str, int]] = {}
    values: list[Array] = []
    hospitals: list[str] = []
    labels: list[str] = []
    for number, mix in enumerate(MIXED):
        name = f"h{number}"
        counts = rng.multinomial(_TRAINING, mix)
        told = np.where(counts >= _SMALLEST_GROUP, counts, 0)
        shares[name] = {label: int(told[place]) for label, place in places.items() if told[place]}
        drawn = rng.choice(LABELS, _HELD_OUT, p=mix)
        scores = rng.normal(0, _DEVIATION, (_HELD_OUT, len(LABELS)))
        scores[np.arange(_HELD_OUT), [places[label] for label in drawn]] += _OWN
        scores += size * told / told.sum() + shift * rng.normal(size=len(LABELS))
        values.append(scores)
        hospitals += [name] * _HELD_OUT
        labels += list(drawn)
    everyone = np.concatenate(values)
    groups = collect(
        everyone, np.array(hospitals), np.array(labels), range(len(labels)), _SMALLEST_GROUP
    )
    leaning, told_apart = lean(groups, shares, LABELS), hospital_told(groups)
    assert leaning is not None
    assert told_apart is not None
    verdict = judge(leaning, shares).verdict
    return _Found(verdict == "confounded", told_apart.p < ALPHA, leaning)


def _rate(case: str, fired: Sequence[bool], *, declared: float | None = None) -> list[Row]:
    """A row of a share of runs, and one of its interval's lower end where a rate is declared."""
    low, high = exact_interval(sum(fired), len(fired))
    rows = [Row(case, sum(fired) / len(fired), "of runs", len(fired), (low, high))]
    if declared is not None:
        claimed = declared if len(fired) >= LEAST else None
        met = None if claimed is None else low <= claimed
        ends = f"{case}, lower end"
        rows.append(Row(ends, low, "of runs", len(fired), (low, high), claimed, met))
    return rows


def exact_interval(times: int, of: int) -> tuple[float, float]:
    """The exact 95 % interval of a share (Clopper and Pearson, 1934, by the beta distribution)."""
    low = float(beta.ppf(0.025, times, of - times + 1)) if times else 0.0
    high = float(beta.ppf(0.975, times + 1, of - times)) if times < of else 1.0
    return low, high
