"""Compares the federated model with centralised models and with each hospital's local model.

Cross-validation over five folds by patient, stratified by hospital: every patient is scored once
per seed, by models that never saw it, on the grid of the original file. Arms, with the same
network, settings, augmentation and start:

* `federated`: the real job, run in process; and `alone/HOSPITAL`, the job's local models, trained
  with as many steps on the hospital's own patients;
* `pooled`: a centralised model on all patients, with as many samples as all hospitals see together
  (equal passes over a patient);
* `pooled, equal steps`: the same with as many optimiser steps as one hospital takes.

In every arm the average of the last rounds' weights is scored. On the first fold, `pooled` and
`alone` with twice the rounds show whether the budget is sufficient. An arm is recorded as soon as
it is done and not measured again.
"""

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scripts.benchmarks.lgg import ROOT, Folds, choose, deal, find_data, read_folds
from scripts.benchmarks.paired import Difference, holm_intervals, paired_difference
from scripts.benchmarks.records import (
    Part,
    collect,
    conditions,
    describe_settings,
    on_record,
    read_records,
)
from scripts.benchmarks.scoring import CPU, Examiner

from consortium.client.trainer import LocalTrainer
from consortium.core.errors import EnvironmentProblem, Incomplete, Refused
from consortium.core.seeds import derive_seed
from consortium.core.site_policy import Site, simulated_privacy
from consortium.models.networks import build_network
from consortium.runs.centralised import train_centralised
from consortium.runs.in_process import InProcessRun
from consortium.settings.base import Settings
from consortium.study.job_folder import SETTINGS, find_job
from consortium.synthetic.dataset import generate
from consortium.tasks.folders import hospital_folders
from consortium.tasks.registry import load_settings
from consortium.tasks.segmentation.datalist import read_datalist

JOB = "tumor_segmentation"
RECORDS = ROOT / "jobs" / JOB / "accuracy.jsonl"
FEDERATED, POOLED, POOLED_STEPS = "federated", "pooled", "pooled, equal steps"
POOLED_TWICE, ALONE_TWICE = "pooled, twice the rounds", "alone, twice the rounds"
SEEDS = (0, 1)


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of the measurement.

    Attributes:
        data: folder with one folder for each hospital.
        folds: patients of each fold.
        settings: of the job; the seed is set for each part.
        seeds: the scores of each patient are averaged over them.
    """

    data: Path
    folds: Sequence[Folds]
    settings: Settings
    seeds: Sequence[int] = SEEDS

    @property
    def sha256(self) -> str:
        """Digest of settings and folds, which must be the same for all records of one table."""
        content = [describe_settings(self.settings), list(self.folds)]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def parts(self) -> list[Part]:
        """Returns all parts: first the two that check the budget, then seed by seed."""
        parts: list[Part] = [
            {"seed": self.seeds[0], "fold": 0, "arm": arm} for arm in (POOLED_TWICE, ALONE_TWICE)
        ]
        for seed in self.seeds:
            for fold in range(len(self.folds)):
                for arm in (FEDERATED, POOLED, POOLED_STEPS):
                    parts.append({"seed": seed, "fold": fold, "arm": arm})
        return parts


def run(quick: bool, records_file: Path | None, show: bool) -> None:
    """Measures, prints the tables and checks the targets.

    Args:
        quick: a tiny run on generated scans without targets.
        records_file: None for the job's own, or for a temporary one if quick.
        show: measure nothing.

    Raises:
        Incomplete: `target-missed`.
        Refused: `not-measured` or `other-plan`.
        UsageError: `no-real-data`.
    """
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        plan = quick_plan(place / "hospitals") if quick else real_plan()
        file = records_file or (place / "records.jsonl" if quick else RECORDS)
        records = read_records(file) if show else measure(plan, file)
        claims = judge(plan, records)
        print(table(plan, records, claims))
    missed = [claim.what for claim in claims if claim.met is False]
    if missed and not quick:
        raise Incomplete("target-missed", "; ".join(missed), "accuracy", "see the table")


def real_settings() -> Settings:
    """Returns the job's settings without validation patients: the fold takes their place."""
    settings = load_settings(find_job(JOB) / SETTINGS)
    data = settings.data.model_copy(update={"validation_fraction": 0.0})
    return settings.model_copy(update={"data": data, "baseline": True})


def real_plan() -> Plan:
    """Returns the plan for the real scans."""
    return Plan(find_data("lgg"), read_folds(), real_settings())


def quick_plan(folder: Path) -> Plan:
    """Returns a tiny plan on generated scans."""
    generate(folder, seed=0, in_plane=32, slices=6)
    patients = {
        name: [case.patient for case in read_datalist(path).cases][:4]
        for name, path in list(hospital_folders(folder).items())[:2]
    }
    for name in set(hospital_folders(folder)) - set(patients):
        (folder / name).rename(folder / f".{name}")
    settings = real_settings()
    small = {
        "rounds": 2,
        "data": settings.data.model_copy(update={"size": [32, 32]}),
        "network": settings.network.model_copy(update={"features": [4, 8]}),
        "training": settings.training.model_copy(update={"local_steps": 2, "batch": 2}),
    }
    return Plan(folder, deal(patients, 2), settings.model_copy(update=small), (0,))


def measure(plan: Plan, records_file: Path) -> list[dict[str, Any]]:
    """Measures the parts that are not on record; see `collect`."""
    return collect(plan.parts(), partial(_measure, plan), records_file, plan.sha256)


def _measure(plan: Plan, part: Part) -> list[dict[str, Any]]:
    """Trains an arm and scores its models on the fold."""
    settings = plan.settings.model_copy(update={"seed": part["seed"]})
    others = [fold for fold in range(len(plan.folds)) if fold != part["fold"]]
    examiner = Examiner(choose(plan.data, plan.folds, [part["fold"]]).cases(), settings)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        folders = choose(plan.data, plan.folds, others).write(place / "hospitals")
        models = _train(part["arm"], settings, folders, place)
        return [
            {"model": name, "dice": examiner.mean_scores(model)} for name, model in models.items()
        ]


def _train(
    arm: str, settings: Settings, folders: Mapping[str, Path], place: Path
) -> dict[str, Any]:
    """Trains the models of an arm; returns their weights or files by name."""
    if arm == FEDERATED:
        return _federate(settings, folders, place)
    if arm == ALONE_TWICE:
        twice = settings.model_copy(update={"rounds": 2 * settings.rounds})
        start = build_network(twice, seed=derive_seed(twice.seed, "model")).state_dict()
        alone = {}
        for name, folder in folders.items():
            site = Site(name, folder, place / name, privacy=simulated_privacy(1))
            hospital = LocalTrainer(site, twice, device=CPU)
            hospital.train_local(start, twice.rounds)
            alone[f"{ALONE_TWICE}/{name}"] = hospital.own_model
        return alone
    if arm == POOLED_TWICE:
        settings = settings.model_copy(update={"rounds": 2 * settings.rounds})
    steps = settings.training.local_steps if arm == POOLED_STEPS else None
    return {arm: train_centralised(folders, settings, place / "pooled", steps=steps)}


def _federate(settings: Settings, folders: Mapping[str, Path], place: Path) -> dict[str, Any]:
    changed = [
        f"{key}={json.dumps(value)}"
        for key, value in settings.model_dump(by_alias=True, mode="json").items()
    ]
    result = InProcessRun(
        job=find_job(JOB),
        data=place / "hospitals",
        workspace=place / "run",
        assignments=changed,
        render=False,
        smallest_training=1,
    ).run()
    if not result["complete"]:
        raise EnvironmentProblem("incomplete", result["reason"], FEDERATED, "run it again")
    models: dict[str, Any] = {FEDERATED: place / "run" / "model" / "models" / "model.safetensors"}
    for name in folders:
        [models[f"alone/{name}"]] = (place / "run" / "hospitals" / name).glob("*/local.safetensors")
    return models


def by_model(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Returns each model's Dice for each patient, averaged over seeds."""
    found: dict[str, dict[str, list[float]]] = {}
    for record in records:
        for patient, value in record["dice"].items():
            found.setdefault(record["model"], {}).setdefault(patient, []).append(value)
    return {
        model: {patient: float(np.mean(values)) for patient, values in sorted(patients.items())}
        for model, patients in found.items()
    }


@dataclass(frozen=True, slots=True)
class Claim:
    """A comparison of the protocol and its result.

    Attributes:
        what: the comparison.
        found: difference or level.
        bound: the end of the interval, or the level, that is compared with the target.
        interval: as text, for the table.
        target: `bound` must be above it; None if the claim has no target.
        patients: number of patients.
    """

    what: str
    found: float
    bound: float
    interval: str
    target: float | None
    patients: int

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target."""
        return None if self.target is None else self.bound > self.target


def judge(plan: Plan, records: Sequence[Mapping[str, Any]]) -> list[Claim]:
    """Makes the protocol's comparisons.

    Raises:
        Refused: `not-measured`, if a part is not on record.
    """
    missing = [part for part in plan.parts() if not on_record(part, records)]
    if missing:
        raise Refused(
            "not-measured", f"{len(missing)} arms are not on record", "", "run it without --show"
        )
    scores = by_model(records)
    where = choose(plan.data, plan.folds, range(len(plan.folds))).hospital_of()
    shared = scores[FEDERATED]
    claims = []
    for arm, margin in ((POOLED_STEPS, -0.03), (POOLED, -0.05)):
        difference = paired_difference(shared, scores[arm], where)
        claims.append(
            Claim(
                f"federated less {arm if arm != POOLED else 'pooled, equal passes'}",
                difference.mean,
                difference.lower(),
                f"above {difference.lower():+.3f} (one-sided)",
                margin,
                difference.patients,
            )
        )
    claims += _against_alone(plan, scores, where)
    best = max((POOLED, POOLED_STEPS), key=lambda arm: float(np.mean(list(scores[arm].values()))))
    values = list(scores[best].values())
    for statistic, value, target in (
        ("mean", float(np.mean(values)), 0.75),
        ("median", float(np.median(values)), 0.82),
    ):
        claims.append(Claim(f"{best}: {statistic} Dice", value, value, "", target, len(values)))
    claims += _twice(plan, records, where)
    return claims


def _against_alone(
    plan: Plan, scores: Mapping[str, Mapping[str, float]], where: Mapping[str, str]
) -> list[Claim]:
    family: list[tuple[str, Difference, float | None]] = []
    for name in sorted(hospital_folders(plan.data)):
        alone = scores[f"alone/{name}"]
        everyone = paired_difference(scores[FEDERATED], alone, where)
        family.append((f"federated less {name} alone, all patients", everyone, 0.0))
        own = [patient for patient in alone if where[patient] == name]
        at_home = paired_difference(
            {patient: scores[FEDERATED][patient] for patient in own},
            {patient: alone[patient] for patient in own},
            where,
        )
        family.append((f"federated less {name} alone, its own patients", at_home, None))
    intervals = holm_intervals([difference for _, difference, _ in family])
    return [
        Claim(
            comparison,
            difference.mean,
            low,
            f"{low:+.3f} to {high:+.3f} (Holm)",
            target,
            difference.patients,
        )
        for (comparison, difference, target), (low, high) in zip(family, intervals, strict=True)
    ]


def _twice(
    plan: Plan, records: Sequence[Mapping[str, Any]], where: Mapping[str, str]
) -> list[Claim]:
    """Computes the gain of twice the rounds on the first fold and seed; it must be below 0.02."""
    first = [record for record in records if (record["fold"], record["seed"]) == (0, plan.seeds[0])]
    scores = by_model(first)
    claims = []
    names = [f"alone/{name}" for name in sorted(hospital_folders(plan.data))]
    for once in (POOLED, *names):
        twice = POOLED_TWICE if once == POOLED else f"{ALONE_TWICE}/{once.partition('/')[2]}"
        gain = paired_difference(scores[twice], scores[once], where)
        low, high = gain.interval()
        claims.append(
            Claim(
                f"{once}: gain of twice the rounds, fold 1",
                gain.mean,
                -gain.mean,
                f"{low:+.3f} to {high:+.3f}",
                -0.02,
                gain.patients,
            )
        )
    return claims


def table(plan: Plan, records: Sequence[Mapping[str, Any]], claims: Sequence[Claim]) -> str:
    """Formats the tables in Markdown: the level of every arm, then the comparisons."""
    lines = ["| model | patients | mean Dice | median |", "|---|---|---|---|"]
    scores = by_model(records)
    levels = [FEDERATED, POOLED, POOLED_STEPS]
    levels += [f"alone/{name}" for name in sorted(hospital_folders(plan.data))]
    for model in levels:
        values = list(scores[model].values())
        lines.append(
            f"| {model} | {len(values)} | {np.mean(values):.3f} | {np.median(values):.3f} |"
        )
    lines += [
        "",
        "| comparison | patients | result | 95 % | target | met |",
        "|---|---|---|---|---|---|",
    ]
    for claim in claims:
        target = "" if claim.target is None else f"above {claim.target:+.2f}"
        if "gain" in claim.what:
            target = "below +0.02"
        met = {None: "", True: "yes", False: "no"}[claim.met]
        lines.append(
            f"| {claim.what} | {claim.patients} | {claim.found:+.3f} | {claim.interval} |"
            f" {target} | {met} |"
        )
    lines += [
        "",
        f"Seeds {', '.join(map(str, plan.seeds))}, averaged for each patient;"
        f" {conditions(records)}. The intervals are over patients; they do not include the variance"
        " of training sets.",
    ]
    return "\n".join(lines)
