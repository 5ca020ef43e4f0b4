"""Measures whether a model recognises COVID-19 or the source of an X-ray image; four real sources.

In public collections the label is almost determined by the source; only one of the four, cohen, has
all classes. So the main figure is the AUC of COVID-19 against other pneumonia among cohen's
held-out patients. The data are 2,332 X-ray images (`covid_cxr`; not in this repository) of four
sources as four hospitals. Five folds of patients are dealt by the sha256 of their ids within each
source and label; every patient is held out once. Each arm is the job's settings with the changes in
`covid.json`. It trains over the hospitals in one process without FLARE, which gives the same bytes.
A fold's AUC is averaged over folds and seeds. Its interval resamples patients within fold and
class, the same for all arms, so that differences are paired. The intervals do not include the
variance of training sets.

For every arm the table also has the AUC of COVID-19 against the rest over all sources, which such
work usually reports, and the result of the job's confounding probe on each fold. Parts that are on
record are not measured again.
"""

import csv
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scripts.benchmarks.federate import federate
from scripts.benchmarks.lgg import ROOT, deal, find_data
from scripts.benchmarks.records import Part, collect, conditions, describe_settings, on_file

from consortium.confounding.run_probe import run_probe
from consortium.core.json_files import read_json_object
from consortium.core.site_policy import Site, simulated_privacy
from consortium.models.networks import build_network
from consortium.runs.centralised import train_centralised
from consortium.settings.base import override
from consortium.study.job_folder import SETTINGS, find_job
from consortium.tasks.classification.dataset import (
    IMAGES,
    LABELS,
    read_radiographs,
    split_radiographs,
)
from consortium.tasks.classification.loading import class_probabilities
from consortium.tasks.classification.settings import ClassificationSettings
from consortium.tasks.classification.task import ClassificationTask
from consortium.tasks.registry import parse_settings
from consortium.tasks.scores import auroc
from consortium.tasks.tables import write_table

JOB = "covid_detection"
RECORDS = ROOT / "jobs" / JOB / "covid.jsonl"
ARMS = Path(__file__).with_name("covid.json")
FOLDS, RESAMPLES = 5, 4_000
PAIRS = {"cohen": ("COVID-19", "pneumonia"), "nih": ("pneumonia", "normal")}
"""Classes compared within a source, for sources with two classes of more than ten patients."""
INSIDE = "cohen"
"""The only source with all classes."""
BASE = ("confounding.pictures=0",)
ADAMW = (
    *("training.optimiser=adamw", "training.learning_rate=0.001", "training.weight_decay=0.01"),
    *("rounds=20", "training.local_steps=20"),
    *("server.adaptive=null", "server.learning_rate=1", "server.momentum=0"),
)
"""As many steps with AdamW, which suits centralised training, and a plain mean at the server."""
_MARGIN = 0.05
CPU = torch.device("cpu")


def run(quick: bool, records_file: Path | None, show: bool) -> None:
    """Measures the parts that are not on record and prints the table.

    Args:
        quick: refused; there is no quick run.
        records_file: None for the job's own.
        show: measure nothing.

    Raises:
        UsageError: `no-quick-run` or `no-real-data`.
    """
    print(table(on_file(quick, records_file or RECORDS, show, measure)))


def read_arms() -> list[dict[str, Any]]:
    """Reads the committed arms.

    An arm has a name, `set` (KEY=VALUE changes), `arm`, `optimiser`, the hospitals that take part,
    `seeds`, and `beside`: the centralised arm with as many steps.
    """
    arms: list[dict[str, Any]] = json.loads(ARMS.read_text(encoding="utf-8"))
    return [{"seeds": [0], "beside": "pooled", **arm} for arm in arms]


def settings_of(arm: Mapping[str, Any], seed: int) -> ClassificationSettings:
    """Returns the job's settings with an arm's changes."""
    raw = read_json_object(find_job(JOB) / SETTINGS)
    optimiser = ADAMW if arm.get("optimiser") == "adamw" else ()
    settings = parse_settings(
        override(raw, [*BASE, *optimiser, *arm["set"], f"seed={seed}"]), arm["name"]
    )
    assert isinstance(settings, ClassificationSettings)
    return settings


def measure(records_file: Path) -> list[dict[str, Any]]:
    """Measures the parts that are not on record."""
    data = find_data("covid_cxr")
    parts: list[Part] = [
        {"name": arm["name"], "fold": fold, "seed": seed, "settings": _digest_of(arm, seed)}
        for arm in read_arms()
        for seed in arm["seeds"]
        for fold in range(FOLDS)
    ]
    return collect(parts, partial(_measure, data), records_file, f"{FOLDS} folds")


def _digest_of(arm: Mapping[str, Any], seed: int) -> str:
    trained = {key: value for key, value in arm.items() if key not in ("seeds", "beside")}
    content = [describe_settings(settings_of(arm, seed)), trained]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _measure(data: Path, part: Part) -> list[dict[str, Any]]:
    arm = next(each for each in read_arms() if each["name"] == part["name"])
    settings = settings_of(arm, part["seed"])
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        folders = write_hospitals(data, place / "hospitals", part["fold"])
        training = {
            name: folder
            for name, folder in folders.items()
            if name in arm.get("only", folders) and name not in arm.get("without", ())
        }
        if arm.get("arm") == "pooled":
            model = train_centralised(training, settings, place / "run")
        else:
            model = next(iter(federate(training, settings, place / "run").values()))
        network = build_network(settings)
        network.load_state_dict(model)
        return [{**examine(network, folders, settings), "trained": sorted(training)}]


def write_hospitals(data: Path, out: Path, fold: int) -> dict[str, Path]:
    """Writes one folder for each source; its validation patients are one fold; images are linked.

    Args:
        data: the folder of all X-ray images.
        out: parent of the folders.
        fold: number of the fold, from 0.
    """
    with (data / LABELS).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    held_out = _held_out(rows, fold)
    folders = {}
    for site in sorted({row["site"] for row in rows}):
        folders[site] = out / site
        folders[site].mkdir(parents=True)
        (folders[site] / IMAGES).symlink_to(data / IMAGES, target_is_directory=True)
        write_table(
            folders[site] / LABELS,
            ["file", "patient", "label", "view", "site", "split"],
            [
                (
                    *(row[column] for column in ("file", "patient", "label", "view", "site")),
                    "validation" if row["patient"] in held_out[site] else "training",
                )
                for row in rows
                if row["site"] == site
            ],
        )
    return folders


def _held_out(rows: Sequence[Mapping[str, str]], fold: int) -> dict[str, set[str]]:
    """Returns a fold's patients by source; a patient is dealt by its first label."""
    label_of: dict[tuple[str, str], str] = {}
    for row in rows:
        label_of.setdefault((row["site"], row["patient"]), row["label"])
    groups: dict[str, list[str]] = {}
    for (site, patient), label in label_of.items():
        groups.setdefault(f"{site}/{label}", []).append(patient)
    chosen: dict[str, set[str]] = {site: set() for site, _ in label_of}
    for group, patients in deal(groups, FOLDS)[fold].items():
        chosen[group.partition("/")[0]].update(patients)
    return chosen


def examine(
    network: torch.nn.Module, folders: Mapping[str, Path], settings: ClassificationSettings
) -> dict[str, Any]:
    """Applies a model to the held-out patients of all hospitals.

    Returns:
        `within`: by source of `PAIRS` and label, the log-odds of the first class against the
        second, with the patients in the same order for every model; `overall`: AUC of COVID-19
        against the rest over all sources; `probe`: verdict, site association in standard deviations
        and p, AUC of the hospital by features and by acquisition features.
    """
    classes = list(settings.data.classes)
    covid = classes.index("COVID-19")
    within: dict[str, dict[str, list[float]]] = {
        name: {each: [] for each in pair} for name, pair in PAIRS.items()
    }
    ill, truth, statistics = [], [], {}
    for name, folder in folders.items():
        radiographs = split_radiographs(read_radiographs(folder, settings.data), settings.data)[1]
        predicted = class_probabilities(network, radiographs, settings.data, CPU)
        units: dict[tuple[str, int], list[NDArray[np.float64]]] = {}
        for radiograph, probabilities in zip(radiographs, predicted, strict=True):
            units.setdefault((radiograph.patient, radiograph.label), []).append(probabilities)
        # In an order that does not reveal their ids.
        for (_, label), each in sorted(units.items(), key=lambda unit: _known(unit[0][0])):
            mean = np.mean(each, axis=0).clip(1e-12)
            ill.append(mean[covid])
            truth.append(int(label == covid))
            if classes[label] in PAIRS.get(name, ()):
                first, second = (np.log(mean[classes.index(each)]) for each in PAIRS[name])
                within[name][classes[label]].append(round(float(first - second), 4))
        task = ClassificationTask(
            Site(name, folder, folder / "state", privacy=simulated_privacy(1)),
            settings,
            CPU,
            lambda *_: None,
        )
        statistics[name] = task.probe_statistics(network)
    probe = run_probe(statistics, classes)
    return {
        "within": within,
        "overall": round(auroc(np.array(ill), np.array(truth)) or 0.0, 4),
        "probe": {
            "verdict": probe["verdict"],
            **{key: _round(probe["site_association"], key) for key in ("standardised", "p")},
            **{key: _round(probe[key], "auc") for key in ("features", "acquisition")},
        },
    }


def _known(patient: str) -> str:
    return hashlib.sha256(patient.encode()).hexdigest()


def _round(found: Mapping[str, float] | None, key: str) -> float | None:
    return None if found is None else round(found[key], 4)


class Within:
    """AUC of a source's first class against its second, with the same resamples for all arms.

    Args:
        records: those of one arm, with `fold`, `seed`, `within`.
        source: a key of `PAIRS`.
    """

    def __init__(self, records: Sequence[Mapping[str, Any]], source: str):
        draws, values = [], []
        for record in records:
            rng = np.random.default_rng(record["fold"])
            first, second = (np.array(record["within"][source][each]) for each in PAIRS[source])
            above = first[:, None] - second[None]
            wins = (above > 0) + 0.5 * (above == 0)
            ill, well = wins.shape
            of_ill = rng.multinomial(ill, np.full(ill, 1 / ill), RESAMPLES)
            of_well = rng.multinomial(well, np.full(well, 1 / well), RESAMPLES)
            draws.append(((of_ill @ wins) * of_well).sum(1) / (ill * well))
            values.append(wins.mean())
        self.value = float(np.mean(values))
        self.draws: NDArray[np.float64] = np.mean(draws, axis=0)

    def interval(self) -> tuple[float, float]:
        """Returns the 95 % interval."""
        low, high = np.quantile(self.draws, [0.025, 0.975])
        return float(low), float(high)


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Formats the tables in Markdown."""
    arms = {arm["name"]: arm for arm in read_arms()}
    found: dict[str, list[Mapping[str, Any]]] = {}
    for name, arm in arms.items():
        found[name] = [
            record
            for record in records
            if record["name"] == name and record["settings"] == _digest_of(arm, record["seed"])
        ]
    lines = [
        "| arm | seeds | within cohen [95 %] | less pooled with as many steps [one-sided 95 %] |"
        " within nih | over all sources |"
        " site association, deviations | confounded | hospital by features |"
        " by acquisition features |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, mine in found.items():
        if not mine:
            continue
        inside, seeds = Within(mine, INSIDE), sorted({record["seed"] for record in mine})
        low, high = inside.interval()
        reference = found[arms[name]["beside"]]
        pooled = [record for seed in seeds for record in _of_seed(reference, seed)]
        less = "-"
        if name != "pooled" and len(pooled) == len(mine):
            other = Within(pooled, INSIDE)
            bound = float(np.quantile(inside.draws - other.draws, 0.05))
            less = f"{inside.value - other.value:+.3f} [above {bound:+.3f}]"
        probes = [record["probe"] for record in mine]
        verdicts = sum(probe["verdict"] == "confounded" for probe in probes)
        lines.append(
            f"| {name} | {len(seeds)} | {inside.value:.3f} [{low:.3f}, {high:.3f}] | {less} |"
            f" {Within(mine, 'nih').value:.3f} |"
            f" {np.mean([record['overall'] for record in mine]):.3f} |"
            f" {_mean(probes, 'standardised')} | {verdicts} of {len(probes)} |"
            f" {_mean(probes, 'features')} | {_mean(probes, 'acquisition')} |"
        )
    federated = _of_seed(found["federated"], 0)
    patients = sum(len(each) for record in federated for each in record["within"][INSIDE].values())
    lines += [
        "",
        *_alone(found),
        "",
        *_less_federated(found),
        "",
        f"{patients} patients within cohen, {FOLDS} folds;",
    ]
    lines[-1] += f" {conditions(records)}."
    return "\n".join(lines)


def _alone(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Formats the local models against the federated model, over the seeds that both have."""
    lines = [
        "| hospital | classes | local [95 %] | federated [95 %] | federated less local [95 %] |",
        "|---|---|---|---|---|",
    ]
    for source, pair in PAIRS.items():
        alone, shared = found[f"{source} alone"], found["federated"]
        both = _same_seeds(alone, shared)
        if not both:
            continue
        one, other = (Within(arm, source) for arm in both)
        cells = [
            f"{value:.3f} [{low:.3f}, {high:.3f}]"
            for value, (low, high) in ((each.value, each.interval()) for each in (one, other))
        ]
        lines.append(
            f"| {source} | {' and '.join(pair)} | {' | '.join(cells)} | {_less(other, one)} |"
        )
    return lines


def _less_federated(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Formats each arm against the federated one, over the seeds that both have."""
    lines = [
        f"| less federated, same seeds | {' | '.join(f'within {name} [95 %]' for name in PAIRS)} |",
        "|---|---|---|",
    ]
    for name, mine in found.items():
        both = _same_seeds(mine, found["federated"])
        if name != "federated" and both:
            cells = [_less(*(Within(arm, source) for arm in both)) for source in PAIRS]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _same_seeds(
    one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]
) -> tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]] | None:
    """Returns the records of the seeds that two arms share; None if they share none."""
    both = {record["seed"] for record in one} & {record["seed"] for record in other}
    kept = [[record for record in arm if record["seed"] in both] for arm in (one, other)]
    return (kept[0], kept[1]) if both else None


def _less(one: Within, other: Within) -> str:
    low, high = np.quantile(one.draws - other.draws, [0.025, 0.975])
    return f"{one.value - other.value:+.3f} [{low:+.3f}, {high:+.3f}]"


def _of_seed(records: Sequence[Mapping[str, Any]], seed: int) -> list[Mapping[str, Any]]:
    return [record for record in records if record["seed"] == seed]


def _mean(probes: Sequence[Mapping[str, Any]], key: str) -> str:
    values = [probe[key] for probe in probes if probe[key] is not None]
    return f"{np.mean(values):.2f}" if values else "-"
