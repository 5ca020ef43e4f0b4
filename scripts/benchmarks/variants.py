"""Compares variants of the job's settings by the score of the federated model.

Each variant changes the job's settings, with the budget in `BASE`, and uses only the training part
of the first fold: its models train on three of the four other folds and are scored on the fourth,
so that no patient of the first fold influences the job's defaults. In some variants the smallest
hospital attacks: it multiplies its change by a factor. The hospitals train in one process without
FLARE, which gives the same bytes. Variants that are on record are not measured again.
"""

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scripts.benchmarks.federate import federate
from scripts.benchmarks.lgg import ROOT, choose, find_data, read_folds
from scripts.benchmarks.paired import paired_difference
from scripts.benchmarks.records import Part, collect, conditions, describe_settings, on_file
from scripts.benchmarks.scoring import Examiner

from consortium.core.json_files import read_json_object
from consortium.protocol.update import UpdateRefused
from consortium.runs.centralised import train_centralised
from consortium.settings.base import Settings, override
from consortium.study.job_folder import SETTINGS, find_job
from consortium.tasks.registry import parse_settings

JOB = "tumor_segmentation"
RECORDS = ROOT / "jobs" / JOB / "variants.jsonl"
TRAIN, SCORE = (2, 3, 4), (1,)
POOLED = "pooled"
BASE = ("data.validation_fraction=0", "rounds=120", "training.local_steps=20")
LIST = Path(__file__).with_name("variants.json")
"""The variants: name, `set` (KEY=VALUE changes), `arm`, `attack`."""


def read_variants() -> list[dict[str, Any]]:
    """Reads the committed variants; the others are compared with the first."""
    variants: list[dict[str, Any]] = json.loads(LIST.read_text(encoding="utf-8"))
    return variants


def settings_of(variant: Mapping[str, Any]) -> Settings:
    """Returns the job's settings with those of `BASE` and a variant's changes."""
    raw = read_json_object(find_job(JOB) / SETTINGS)
    return parse_settings(override(raw, [*BASE, *variant["set"]]), variant["name"])


def run(quick: bool, records_file: Path | None, show: bool) -> None:
    """Measures the variants that are not on record and prints the table.

    Args:
        quick: refused; there is no quick run.
        records_file: None for the job's own.
        show: measure nothing.

    Raises:
        UsageError: `no-quick-run` or `no-real-data`.
    """
    print(table(on_file(quick, records_file or RECORDS, show, measure)))


def measure(records_file: Path) -> list[dict[str, Any]]:
    """Measures the variants that are not on record; see `collect`."""
    data = find_data("lgg")
    parts: list[Part] = [
        {
            "name": variant["name"],
            "set": variant["set"],
            "arm": variant.get("arm", "federated"),
            "settings": digest_of(variant),
            **({"attack": variant["attack"]} if "attack" in variant else {}),
        }
        for variant in read_variants()
    ]
    return collect(parts, partial(_measure, data), records_file, _sha256(read_folds()))


def digest_of(variant: Mapping[str, Any]) -> str:
    """The digest of what may not change between the records of a variant."""
    described = describe_settings(settings_of(variant))
    return _sha256([described, variant["attack"]] if "attack" in variant else described)


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _measure(data: Path, part: Part) -> list[dict[str, Any]]:
    settings = settings_of(part)
    folds = read_folds()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        folders = choose(data, folds, TRAIN).write(place / "hospitals")
        if part["arm"] == POOLED:
            models = dict.fromkeys(folders, train_centralised(folders, settings, place / "run"))
        else:
            try:
                models = federate(folders, settings, place / "run", part.get("attack"))
            except UpdateRefused as refusal:  # the model exceeds the range of float32
                nobody = choose(data, folds, SCORE).hospital_of()
                return [{"dice": dict.fromkeys(nobody, 0.0), "broke": refusal.code}]
    patients = choose(data, folds, SCORE)
    scores = {}
    for name, model in models.items():
        own = replace(patients, chosen={name: patients.chosen[name]})
        scores |= Examiner(own.cases(), settings).mean_scores(model)
    return [{"dice": scores}]


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Formats the table in Markdown."""
    by_name = {
        variant["name"]: record
        for variant in read_variants()
        for record in records
        # A record with other settings belongs to an earlier list.
        if (record["name"], record["settings"]) == (variant["name"], digest_of(variant))
    }
    variants = [variant for variant in read_variants() if variant["name"] in by_name]
    where = choose(find_data("lgg"), read_folds(), SCORE).hospital_of()
    base = by_name[variants[0]["name"]]["dice"]
    lines = [
        "| variant | changes | mean Dice | median | against the first, 95 % |",
        "|---|---|---|---|---|",
    ]
    for variant in variants:
        dice = by_name[variant["name"]]["dice"]
        values = list(dice.values())
        against = ""
        if variant is not variants[0]:
            difference = paired_difference(dice, base, where)
            low, high = difference.interval()
            against = f"{difference.mean:+.3f} ({low:+.3f} to {high:+.3f})"
        attacks = variant.get("attack", {}).items()
        changes = ", ".join(
            [f"`{change}`" for change in variant["set"]]
            + [f"{hospital} multiplies its change by {factor:g}" for hospital, factor in attacks]
        )
        lines.append(
            f"| {variant['name']} | {changes} | {np.mean(values):.3f} | {np.median(values):.3f} |"
            f" {against} |"
        )
    lines += ["", f"{len(where)} patients, seed 0; {conditions(records)}."]
    return "\n".join(lines)
