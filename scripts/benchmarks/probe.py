"""Measures the false positives of the confounding probe, and how often it detects an association.

First, scores are drawn for four hospitals with different shares of three labels, 160 patients each
in training and 120 held out. A patient's scores are normal with mean 2 for the true label and 0 for
the others, and standard deviation 1.5. With a site association, the association times the label's
share at the hospital is added. Hospitals report moments of 10 patients or more. This measures the
arithmetic of the tests at the sizes of a small federation.

Then networks are trained on generated X-ray images (`consortium.synthetic.xrays`) of as many
patients, centrally and with the plain loss, which learns a shortcut best; with a planted shortcut
and without. Neither part shows what the probe finds on real X-ray images.

"Harmless shifts" are scores that differ between hospitals without following any label. They have a
row of their own: they can be associated with a label by chance, which the declared rate of false
positives does not cover.

A row's value is a share of runs, its spread the exact 95 % interval (Clopper and Pearson, 1934).
For false positives, the target of the interval's lower end is the declared rate: a higher one
contradicts the declaration.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import beta
from scripts.benchmarks.report import LEAST, Row

from consortium.confounding.moments import Array, collect
from consortium.confounding.probe import (
    ALPHA,
    POWER,
    SiteAssociation,
    judge,
    site_association,
    site_separation,
)
from consortium.core.json_files import read_json_object
from consortium.models.networks import build_network
from consortium.settings.base import override
from consortium.study.job_folder import SETTINGS, find_job
from consortium.synthetic.xrays import LABELS, MIXED, Radiographs, draw_radiographs
from consortium.tasks.registry import parse_settings

_RUNS, _QUICK_RUNS = 200, 1
_TRAINING, _HELD_OUT, _SMALLEST_GROUP = 160, 120, 10
_OWN, _DEVIATION = 2.0, 1.5
_ASSOCIATIONS = (0.25, 0.5, 0.75)
"""In log-odds, for a share from 0 to 1."""
_SHORTCUTS = (0.0, 0.3, 0.6)
_SIDE = 32
_SHIFT = 0.5
"""Standard deviation of a hospital's shift of each score."""


@dataclass(frozen=True, slots=True)
class Training:
    """Size of a training on generated X-ray images.

    Attributes:
        steps: optimisation steps.
        patients: of each hospital in training.
        held_out: of each hospital, held out.
    """

    steps: int = 200
    patients: int = _TRAINING
    held_out: int = _HELD_OUT


_QUICK_TRAINING = Training(steps=5, patients=60, held_out=60)


@dataclass(frozen=True, slots=True)
class _ProbeResult:
    """Result of one run.

    Attributes:
        confounded: whether that is the verdict.
        separated: whether the scores reveal the hospital.
        association: of the scores with the hospitals' shares of labels.
    """

    confounded: bool
    separated: bool
    association: SiteAssociation


def measure(quick: bool) -> list[Row]:
    """Measures the shares of runs in which the probe gives each result.

    Args:
        quick: one run of each kind instead of 200, and networks that are hardly trained.
    """
    runs, training = (_QUICK_RUNS, _QUICK_TRAINING) if quick else (_RUNS, Training())
    null = [_run(seed) for seed in range(runs)]
    rows = []
    for case, fired in {
        "no association: confounded": [result.confounded for result in null],
        "no association: scores reveal the hospital": [result.separated for result in null],
    }.items():
        rows += _rate(case, fired, declared=ALPHA)
    for size in _ASSOCIATIONS:
        results = [_run(seed, size=size) for seed in range(runs)]
        fired = [result.confounded for result in results]
        rows += _rate(f"association of {size:g}: confounded", fired)
    shifted = [_run(seed, shift=_SHIFT) for seed in range(runs)]
    fired = [result.confounded for result in shifted]
    rows += _rate(f"harmless shifts of {_SHIFT:g}: confounded", fired)
    for shortcut in _SHORTCUTS:
        verdicts = [trained_verdict(seed, shortcut, training) for seed in range(runs)]
        fired = [verdict == "confounded" for verdict in verdicts]
        case = f"networks, shortcut of {shortcut:g}: confounded"
        rows += _rate(case, fired, declared=None if shortcut else ALPHA)
    detectable = [result.association.detectable for result in null]
    low, middle, high = np.quantile(detectable, [0.25, 0.5, 0.75])
    case = f"association that {POWER:.0%} of runs detect, by the probe's own estimate"
    rows.append(Row(case, float(middle), "log-odds", runs, (float(low), float(high))))
    return rows


def _run(seed: int, *, size: float = 0.0, shift: float = 0.0) -> _ProbeResult:
    """Runs the probe on the scores of one federation.

    Args:
        seed: of patients and scores.
        size: of the site association.
        shift: standard deviation of a hospital's shift of each score, for all labels.
    """
    rng = np.random.default_rng(seed)
    indices = {label: index for index, label in enumerate(LABELS)}
    shares: dict[str, Mapping[str, int]] = {}
    values: list[Array] = []
    hospitals: list[str] = []
    labels: list[str] = []
    for number, mix in enumerate(MIXED):
        name = f"h{number}"
        counts = rng.multinomial(_TRAINING, mix)
        reported = np.where(counts >= _SMALLEST_GROUP, counts, 0)
        shares[name] = {label: int(reported[i]) for label, i in indices.items() if reported[i]}
        drawn = rng.choice(LABELS, _HELD_OUT, p=mix)
        scores = rng.normal(0, _DEVIATION, (_HELD_OUT, len(LABELS)))
        scores[np.arange(_HELD_OUT), [indices[label] for label in drawn]] += _OWN
        scores += size * reported / reported.sum() + shift * rng.normal(size=len(LABELS))
        values.append(scores)
        hospitals += [name] * _HELD_OUT
        labels += list(drawn)
    everyone = np.concatenate(values)
    groups = collect(
        everyone, np.array(hospitals), np.array(labels), range(len(labels)), _SMALLEST_GROUP
    )
    association, separation = site_association(groups, shares, LABELS), site_separation(groups)
    assert association is not None
    assert separation is not None
    verdict = judge(association, shares).verdict
    return _ProbeResult(verdict == "confounded", separation.p < ALPHA, association)


def trained_verdict(seed: int, shortcut: float, size: Training) -> str:
    """Trains a network on generated X-ray images of four hospitals; returns the probe's verdict.

    Args:
        seed: of images and network.
        shortcut: from 0, all hospitals acquire images alike, to 1.
        size: of the training.
    """
    training = draw_radiographs(seed, size.patients, shortcut, side=_SIDE)
    held_out = draw_radiographs(seed, size.held_out, shortcut, side=_SIDE, first=size.patients)
    network = _fit(training, seed, size.steps)
    with torch.no_grad():
        probabilities = torch.softmax(network(_inputs(held_out)).double(), 1).numpy().clip(1e-12)
    names = np.char.add("h", held_out.hospitals.astype(str))
    groups = collect(
        np.log(probabilities) - np.log((1 - probabilities).clip(1e-12)),
        names,
        np.array(LABELS)[held_out.labels],
        range(len(names)),
        _SMALLEST_GROUP,
    )
    shares = {}
    for hospital in range(len(MIXED)):
        mine = training.labels[training.hospitals == hospital]
        counts = dict(zip(LABELS, np.bincount(mine, minlength=len(LABELS)).tolist(), strict=True))
        shares[f"h{hospital}"] = {n: c for n, c in counts.items() if c >= _SMALLEST_GROUP}
    return judge(site_association(groups, shares, LABELS), shares).verdict


def _fit(radiographs: Radiographs, seed: int, steps: int) -> torch.nn.Module:
    settings = override(
        read_json_object(find_job("covid_detection") / SETTINGS),
        [f"data.size={_SIDE}", "network.features=[8,16,32]"],
    )
    network = build_network(parse_settings(settings), seed=seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    inputs, targets = _inputs(radiographs), torch.from_numpy(radiographs.labels)
    order = np.random.default_rng(seed)
    for _ in range(steps):
        chosen = torch.from_numpy(order.integers(len(targets), size=32))
        loss = torch.nn.functional.cross_entropy(network(inputs[chosen]), targets[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


def _inputs(radiographs: Radiographs) -> torch.Tensor:
    """Standardises each image by its own mean and standard deviation."""
    grey = torch.from_numpy(radiographs.images).float()[:, None]
    return (grey - grey.mean((2, 3), keepdim=True)) / grey.std((2, 3), keepdim=True)


def _rate(case: str, fired: Sequence[bool], *, declared: float | None = None) -> list[Row]:
    """Makes the row of a share of runs; with a declared rate also one of the lower end."""
    low, high = exact_interval(sum(fired), len(fired))
    rows = [Row(case, sum(fired) / len(fired), "of runs", len(fired), (low, high))]
    if declared is not None:
        claimed = declared if len(fired) >= LEAST else None
        met = None if claimed is None else low <= claimed
        ends = f"{case}, lower end"
        rows.append(Row(ends, low, "of runs", len(fired), (low, high), claimed, met))
    return rows


def exact_interval(times: int, of: int) -> tuple[float, float]:
    """Exact 95 % interval of a share (Clopper and Pearson, 1934, by the beta distribution)."""
    low = float(beta.ppf(0.025, times, of - times + 1)) if times else 0.0
    high = float(beta.ppf(0.975, times + 1, of - times)) if times < of else 1.0
    return low, high
