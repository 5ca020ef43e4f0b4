"""Four real hospitals, logistic regression: reproduces a published benchmark, then tunes our own.

Fed-Heart-Disease of FLamby (Ogier du Terrail et al., NeurIPS 2022): 740 patients of the UCI Heart
Disease data, which are not in this repository. The split is FLamby's (scikit-learn's
`train_test_split` with seed 43, stratified where a hospital has more than two patients of each
class); `heart_split.json` names the lines of each test.

* Reproduction: `variants/flamby.json`, FLamby's settings of each strategy, its five seeds and its
  initial weights (`torch.manual_seed(seed)`, then `Linear(13, 1)` over its order of inputs). Every
  hospital standardises by its own statistics. The accuracies are compared with those published.
* Our own: the numeric inputs are standardised by statistics of all hospitals' training patients
  (`update.buffers` averaged). Learning rate and weight decay are chosen by cross-entropy in a
  five-fold cross-validation within the training patients, also federated. The test patients are
  used once, for the chosen settings, and a centralised model with the same settings is compared.

The rounds run in one process, with the job's own orchestrator and hospitals. One run in FLARE's
simulator shows that it gives the same weights, byte for byte.
"""

import hashlib
import itertools
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from scripts.benchmarks.federate import federate
from scripts.benchmarks.lgg import find_data
from scripts.benchmarks.paired import paired_difference
from scripts.benchmarks.report import describe_machine

from consortium.core.errors import EnvironmentProblem, Incomplete
from consortium.core.files import write_json
from consortium.core.json_files import read_json_object
from consortium.models.networks import build_network
from consortium.protocol.codec import digest
from consortium.runs.centralised import train_centralised
from consortium.runs.simulator import Simulation
from consortium.settings.base import override
from consortium.study.job_folder import SETTINGS, find_job
from consortium.tasks.folders import hospital_folders
from consortium.tasks.registry import parse_settings
from consortium.tasks.scores import auroc
from consortium.tasks.tables import PATIENT, SPLIT, write_table
from consortium.tasks.tabular.dataset import TABLE, read_patients, split_table
from consortium.tasks.tabular.predict import predict
from consortium.tasks.tabular.settings import TabularSettings
from consortium.tasks.tabular.synthetic import generate_tables

JOB = "heart_disease"
FLAMBY = "variants/flamby.json"
SEEDS = (42, 43, 44, 45, 46)
COLUMNS = ["age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak"]
INPUTS = (
    *("age", "sex 1", "trestbps", "chol", "fbs 1", "thalach", "exang 1", "oldpeak"),
    *("cp 2", "cp 3", "cp 4", "restecg 1", "restecg 2"),
)
"""In FLamby's order, which is the order of its initial weights."""

STRATEGIES: Mapping[str, Sequence[str]] = {
    "FedAvg": (),
    "FedAdam": (
        "training.learning_rate=0.01",
        "server.learning_rate=0.01",
        "server.momentum=0.9",
        'server.adaptive={"method": "adam", "beta2": 0.999, "tau": 1e-8}',
    ),
    "FedYogi": (
        "training.learning_rate=0.003162",
        "server.learning_rate=0.01",
        "server.momentum=0.9",
        'server.adaptive={"method": "yogi", "beta2": 0.999, "tau": 1e-8}',
    ),
    "FedAdagrad": (
        "training.learning_rate=0.003162",
        "server.learning_rate=0.316228",
        "server.momentum=0.9",
        'server.adaptive={"method": "adagrad", "tau": 1e-8}',
    ),
}
PUBLISHED: Mapping[str, Sequence[tuple[float, float]]] = {
    "FedAvg": ((0.7308, 0.0192), (0.7191, 0.0293), (0.65, 0.1016), (0.64, 0.0453)),
    "FedAdam": ((0.7519, 0.0154), (0.7461, 0.0168), (0.7375, 0.025), (0.6667, 0.0398)),
    "FedYogi": ((0.7596, 0.0161), (0.7528, 0.0159), (0.7375, 0.025), (0.6756, 0.0361)),
    "FedAdagrad": ((0.7596, 0.0161), (0.7528, 0.0159), (0.7375, 0.025), (0.6756, 0.0361)),
}
"""Accuracy of each strategy on each hospital's test: mean and deviation over the seeds."""
TOLERANCE = 0.02
"""Tolerance for FedAvg; for the others it is the published deviation."""

GRID: Mapping[str, Sequence[float]] = {
    "training.learning_rate": (0.003, 0.01, 0.03),
    "training.weight_decay": (0.0, 0.01),
}
FOLDS = 5
_SPLIT = Path(__file__).with_name("heart_split.json")
_QUICK = ("rounds=2", "training.local_steps=5")

Scores = Mapping[str, Mapping[str, float]]
"""Probability of heart disease for each hospital's test patients."""


@dataclass(frozen=True, slots=True)
class Row:
    """A strategy's result on one hospital's test.

    Attributes:
        strategy: name of the strategy.
        hospital: owner of the test.
        patients: number of test patients.
        accuracy: mean over the seeds.
        deviation: standard deviation over the seeds.
        published: FLamby's mean and deviation.
        met: whether the difference is within the tolerance; null without a target.
    """

    strategy: str
    hospital: str
    patients: int
    accuracy: float
    deviation: float
    published: tuple[float, float]
    met: bool | None


@dataclass(frozen=True, slots=True)
class Best:
    """Result of our own settings.

    Attributes:
        chosen: settings chosen by inner cross-validation.
        tried: cross-entropy of each choice in the inner cross-validation.
        accuracy: of the federated and the centralised (`pooled`) model, by hospital and over all;
            mean over the seeds.
        auroc: the same; null if a hospital has too few patients of a class.
        difference: accuracy of the federated less the centralised model; mean over test patients.
        interval: 95 %, paired bootstrap over patients.
    """

    chosen: str
    tried: Mapping[str, float]
    accuracy: Mapping[str, Mapping[str, float]]
    auroc: Mapping[str, Mapping[str, float | None]]
    difference: float
    interval: tuple[float, float]


def run(quick: bool, json_file: Path | None) -> None:
    """Measures, prints the tables and checks the targets.

    Args:
        quick: a tiny run on generated tables without targets.
        json_file: JSON file to write the tables to; or None.

    Raises:
        Incomplete: `target-missed`.
        EnvironmentProblem: FLARE's simulator gives no result.
        UsageError: `no-real-data`.
    """
    torch.set_num_threads(1)
    started, machine = time.monotonic(), describe_machine()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        folders = _generated(place / "data") if quick else write_hospitals(place / "data")
        seeds = SEEDS[:1] if quick else SEEDS
        rows = again(folders, seeds, place, quick)
        same = same_in_flare(folders, place, quick)
        best = own_best(folders, seeds, place, quick)
    minutes = (time.monotonic() - started) / 60
    _print(rows, best, same, seeds)
    print(f"{minutes:.1f} min; {machine}")
    if json_file is not None:
        content = {"rows": [asdict(row) for row in rows], "best": asdict(best), "same": same}
        write_json(json_file, {"benchmark": "heart", "machine": machine, **content})
    missed = [f"{row.strategy} at {row.hospital}" for row in rows if row.met is False]
    missed += [] if same else ["FLARE gives another model"]
    if missed:
        raise Incomplete("target-missed", "; ".join(missed), "heart", "see the table")


def write_hospitals(out: Path) -> dict[str, Path]:
    """Writes the hospitals' tables from the UCI files, with FLamby's split.

    Returns:
        The folders by name.
    """
    source, split = find_data("heart_disease"), json.loads(_SPLIT.read_text(encoding="utf-8"))
    for name, test in split.items():
        rows = []
        text = (source / f"processed.{name}.data").read_text(encoding="utf-8")
        for number, line in enumerate(text.split()):
            values = line.split(",")
            # Without slope, ca and thal, which most hospitals rarely recorded.
            kept = [*values[: len(COLUMNS)], values[-1]]
            if "?" not in kept:
                side = "validation" if number in test else "training"
                rows.append(
                    [f"{name}-{number:03d}", *(f"{float(value):g}" for value in kept), side]
                )
        write_table(out / name / TABLE, [PATIENT, *COLUMNS, "num", SPLIT], rows)
    return hospital_folders(out)


def _generated(out: Path) -> dict[str, Path]:
    generate_tables(out, seed=0)
    return hospital_folders(out)


def again(folders: Mapping[str, Path], seeds: Sequence[int], place: Path, quick: bool) -> list[Row]:
    """Runs FLamby's protocol."""
    rows = []
    for strategy, changes in STRATEGIES.items():
        found: dict[str, list[float]] = {name: [] for name in folders}
        for seed in seeds:
            settings = flamby(seed, changes, place, quick)
            with tempfile.TemporaryDirectory(dir=place) as workspace:
                models = federate(folders, settings, Path(workspace))
            for name, model in models.items():
                right, _ = _examine(model, folders[name], settings)
                found[name].append(float(np.mean(list(right.values()))))
        for (name, values), published in zip(found.items(), PUBLISHED[strategy], strict=True):
            mean, bound = float(np.mean(values)), published[1]
            bound = TOLERANCE if strategy == "FedAvg" else bound
            rows.append(
                Row(
                    strategy,
                    name,
                    len(_test(folders[name], settings)),
                    mean,
                    float(np.std(values)),
                    published,
                    None if quick else abs(mean - published[0]) <= bound + 1e-4,
                )
            )
    return rows


def flamby(seed: int, changes: Sequence[str], place: Path, quick: bool) -> TabularSettings:
    """Returns the variant's settings with FLamby's initial weights."""
    raw = read_json_object(find_job(JOB) / FLAMBY)
    settings = _parse(raw, [f"seed={seed}", *changes, *(_QUICK if quick else ())])
    torch.manual_seed(seed)
    linear = torch.nn.Linear(len(INPUTS), 1)
    order = [INPUTS.index(name) for name in settings.data.inputs]
    start = build_network(settings).state_dict()
    start["1.weight"] = linear.weight.detach()[:, order].contiguous()
    start["1.bias"] = linear.bias.detach()
    file = place / f"start-{seed}.safetensors"
    save_file(start, file)
    return _parse(settings.model_dump(by_alias=True, mode="json"), [f"model.from={file}"])


def _parse(raw: dict[str, Any], changes: Sequence[str]) -> TabularSettings:
    settings = parse_settings(override(raw, list(changes)))
    assert isinstance(settings, TabularSettings)
    return settings


def same_in_flare(folders: Mapping[str, Path], place: Path, quick: bool) -> bool:
    """Whether FLARE's simulator gives the same model as the rounds in one process."""
    settings = flamby(SEEDS[0], (), place, quick)
    with tempfile.TemporaryDirectory(dir=place) as workspace:
        here = next(iter(federate(folders, settings, Path(workspace)).values()))
    file = place / "settings.json"
    write_json(file, settings.model_dump(by_alias=True, mode="json"))
    simulation = Simulation(
        job=find_job(JOB),
        data=next(iter(folders.values())).parent,
        workspace=place / "flare",
        settings=file,
        environment={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        smallest_training=1,
    )
    result = simulation.run()
    if not result["complete"]:
        raise EnvironmentProblem("incomplete", result["reason"], "FLARE", "run it again")
    there = load_file(place / "flare" / "model" / "models" / "model.safetensors")
    learned = ("1.weight", "1.bias")
    return digest({name: there[name] for name in learned}) == digest(
        {name: here[name] for name in learned}
    )


def own_best(folders: Mapping[str, Path], seeds: Sequence[int], place: Path, quick: bool) -> Best:
    """Chooses settings within the training patients, then evaluates the test once."""
    raw = read_json_object(find_job(JOB) / SETTINGS)
    tried: dict[str, float] = {}
    inner = [inner_split(folders, fold, place) for fold in range(1 if quick else FOLDS)]
    options = list(itertools.product(*GRID.values()))[: 1 if quick else None]
    for values in options:
        changes = [f"{key}={json.dumps(value)}" for key, value in zip(GRID, values, strict=True)]
        settings = _parse(raw, [*changes, *(_QUICK if quick else ())])
        losses: list[float] = []
        for hospitals in inner:
            with tempfile.TemporaryDirectory(dir=place) as workspace:
                models = federate(hospitals, settings, Path(workspace))
            for name, model in models.items():
                losses += _losses(model, hospitals[name], settings)
        tried[", ".join(changes)] = float(np.mean(losses))
    chosen = min(tried, key=lambda changes: tried[changes])
    settings = _parse(raw, [*chosen.split(", "), *(_QUICK if quick else ())])
    return _tested(folders, settings, seeds, place, chosen, tried)


def inner_split(folders: Mapping[str, Path], fold: int, place: Path) -> dict[str, Path]:
    """Writes the tables of one inner fold: only training patients, without the tests.

    A hospital whose training patients all have one class would be refused, so it is left out.
    """
    out = place / f"inner-{fold}"
    for name, folder in folders.items():
        table = read_patients(folder)
        kept = [row for row in table.rows if row[SPLIT] == "training"]
        if len({row["num"] == "0" for row in kept}) < 2:
            continue
        kept.sort(key=lambda row: hashlib.sha256(row[PATIENT].encode()).digest())
        columns = [column for column in table.columns if column != SPLIT]
        rows = [
            [
                *(row[column] for column in columns),
                "validation" if position % FOLDS == fold else "training",
            ]
            for position, row in enumerate(kept)
        ]
        write_table(out / name / TABLE, [*columns, SPLIT], rows)
    return hospital_folders(out)


def _tested(
    folders: Mapping[str, Path],
    settings: TabularSettings,
    seeds: Sequence[int],
    place: Path,
    chosen: str,
    tried: Mapping[str, float],
) -> Best:
    right: dict[str, dict[str, list[float]]] = {"federated": {}, "pooled": {}}
    areas: dict[str, dict[str, list[float | None]]] = {"federated": {}, "pooled": {}}
    hospital_of: dict[str, str] = {}
    for seed in seeds:
        seeded = settings.model_copy(update={"seed": seed})
        with tempfile.TemporaryDirectory(dir=place) as workspace:
            shared = next(iter(federate(folders, seeded, Path(workspace) / "federated").values()))
            pooled = train_centralised(folders, seeded, Path(workspace) / "pooled")
        for model, state in (("federated", shared), ("pooled", pooled)):
            for name, folder in folders.items():
                found, area = _examine(state, folder, seeded)
                areas[model].setdefault(name, []).append(area)
                for patient, value in found.items():
                    hospital_of[patient] = name
                    right[model].setdefault(patient, []).append(value)
    means = {
        model: {patient: float(np.mean(values)) for patient, values in found.items()}
        for model, found in right.items()
    }
    difference = paired_difference(means["federated"], means["pooled"], hospital_of)
    return Best(
        chosen,
        tried,
        {model: _by_hospital(found, hospital_of) for model, found in means.items()},
        {
            model: {
                name: None if None in values else float(np.mean(values))
                for name, values in found.items()
            }
            for model, found in areas.items()
        },
        difference.mean,
        difference.interval(),
    )


def _by_hospital(found: Mapping[str, float], hospital_of: Mapping[str, str]) -> dict[str, float]:
    groups: dict[str, list[float]] = {}
    for patient, value in found.items():
        groups.setdefault(hospital_of[patient], []).append(value)
    means = {name: float(np.mean(values)) for name, values in sorted(groups.items())}
    return {**means, "all": float(np.mean(list(found.values())))}


def _test(folder: Path, settings: TabularSettings) -> Any:
    return split_table(read_patients(folder), settings.data)[1]


def _probabilities(state: Mapping[str, Any], patients: Any, settings: TabularSettings) -> Any:
    network = build_network(settings)
    network.load_state_dict(state)
    return predict(network, patients, torch.device("cpu"))


def _examine(
    state: Mapping[str, Any], folder: Path, settings: TabularSettings
) -> tuple[dict[str, float], float | None]:
    """Returns whether each test patient's class is right (1 or 0), and the AUROC."""
    test = _test(folder, settings)
    found = _probabilities(state, test, settings)
    right = ((found > 0.5) == (test.outcomes == 1)).astype(float)
    return dict(zip(test.names, right.tolist(), strict=True)), auroc(found, test.outcomes)


def _losses(state: Mapping[str, Any], folder: Path, settings: TabularSettings) -> list[float]:
    """Returns the cross-entropy of each validation patient."""
    test = _test(folder, settings)
    found = np.clip(_probabilities(state, test, settings), 1e-7, 1 - 1e-7)
    return [float(-np.log(p if y else 1 - p)) for p, y in zip(found, test.outcomes, strict=True)]


def _print(rows: Sequence[Row], best: Best, same: bool, seeds: Sequence[int]) -> None:
    console = Console(highlight=False, width=140)
    table = Table(title=f"FLamby's protocol, seeds {', '.join(map(str, seeds))}")
    for title in ("strategy", "hospital", "patients", "accuracy", "published", "met"):
        table.add_column(title)
    for row in rows:
        published = "{:.3f} +- {:.3f}".format(*row.published)
        met = {None: "", True: "yes", False: "no"}[row.met]
        found = f"{row.accuracy:.3f} +- {row.deviation:.3f}"
        table.add_row(row.strategy, row.hospital, str(row.patients), found, published, met)
    console.print(table)
    print(f"FLARE's simulator gives the same weights: {'yes' if same else 'no'}")
    table = Table(title="Inner cross-validation, cross-entropy")
    for title in ("settings", "cross-entropy"):
        table.add_column(title)
    for changes, loss in best.tried.items():
        table.add_row(changes + (" (chosen)" if changes == best.chosen else ""), f"{loss:.4f}")
    console.print(table)
    table = Table(title="Our own settings on the test: accuracy / AUROC")
    for title in ("hospital", *best.accuracy):
        table.add_column(title)
    for name in next(iter(best.accuracy.values())):
        cells = []
        for model, found in best.accuracy.items():
            area = best.auroc[model].get(name)
            cells.append(f"{found[name]:.3f}" + (f" / {area:.3f}" if area is not None else ""))
        table.add_row(name, *cells)
    console.print(table)
    print(
        "federated less centralised: {:+.3f} ({:+.3f} to {:+.3f})".format(
            best.difference, *best.interval
        )
    )
