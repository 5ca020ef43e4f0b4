"""Trains the centralised model: one model on all hospitals' patients in one place.

It is a reference for simulations and benchmarks, where all folders lie on one machine. It has the
same settings, the same start weights and the same model selection as the federated model.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from consortium.client.trainer import LocalTrainer, Progress
from consortium.core.files import write_json
from consortium.core.json_files import read_json_object
from consortium.core.seeds import derive_seed
from consortium.core.site_policy import ALL_COLUMNS, Privacy, Site
from consortium.models.networks import build_network
from consortium.protocol.metrics import Score
from consortium.server.rendering import render
from consortium.server.results import add_note
from consortium.settings.base import Settings
from consortium.tasks.registry import parse_settings, task_of

_SITE = "pooled"  # part of the seeds of its batches
_PRIVACY = Privacy(columns=ALL_COLUMNS)  # nothing leaves this machine
CPU = torch.device("cpu")


def pool_hospitals(folders: Mapping[str, Path], out: Path, settings: Settings) -> None:
    """Writes a folder that holds the cases of all hospitals.

    A patient stays in the part, training or validation, that its own hospital assigns it to.

    Args:
        folders: of the hospitals, by name.
        out: the folder to write; appears whole or not at all.
        settings: of the job.
    """
    task_of(settings).pool(folders, out, settings)


def train_centralised(
    folders: Mapping[str, Path],
    settings: Settings,
    workspace: Path,
    *,
    steps: int | None = None,
    device: torch.device = CPU,
    report: Callable[[Progress], None] = lambda progress: None,
) -> dict[str, Tensor]:
    """Trains the centralised model.

    Args:
        folders: of the hospitals, by name.
        settings: of the job.
        workspace: for the joined folder and the model.
        steps: optimiser steps a round; by default as many as all hospitals take together, so that
            the model sees as many samples as in the federation. Passes over the patients
            (`local_epochs`) need no such change.
        device: where to train.
        report: see `LocalTrainer`.

    Returns:
        The model's state, on the CPU.
    """
    work: dict[str, Any] = {"local_steps": steps, "local_epochs": None, "local_minutes": None}
    if steps is None:
        local, count = settings.training, len(folders)
        work = {"local_steps": local.local_steps * count}
        if local.local_minutes is not None:
            work["local_minutes"] = local.local_minutes * count
    training = settings.training.model_copy(update=work)
    settings = settings.model_copy(update={"training": training})
    pool_hospitals(folders, workspace / "data", settings)
    site = Site(_SITE, workspace / "data", workspace / "state", privacy=_PRIVACY)
    trainer = LocalTrainer(site, settings, device=device, report=report)
    start = build_network(settings, seed=derive_seed(settings.seed, "model")).state_dict()
    trainer.train_local(start, settings.rounds)
    return load_file(trainer.own_model)


def score_at_hospitals(
    model: Mapping[str, Tensor],
    folders: Mapping[str, Path],
    settings: Settings,
    workspace: Path,
    *,
    smallest_group: int,
    device: torch.device = CPU,
) -> dict[str, Score | None]:
    """Scores a model on each hospital's validation patients, as the hospital itself would."""
    scores = {}
    for name, folder in folders.items():
        site = Site(
            name,
            folder,
            workspace / "state" / name,
            smallest_group=smallest_group,
            privacy=_PRIVACY,
        )
        scores[name] = LocalTrainer(site, settings, device=device).validate(model).validation
    return scores


def add_centralised(
    run: Path,
    folders: Mapping[str, Path],
    *,
    smallest_group: int,
    report: Callable[[Progress], None] = lambda progress: None,
) -> dict[str, Any]:
    """Trains the centralised model of a finished run; adds its scores to result, page and curves.

    Args:
        run: the workspace of the run; the model goes to `centralised/` in it.
        folders: of the hospitals, by name.
        smallest_group: a score over fewer patients is withheld.
        report: see `LocalTrainer`.

    Returns:
        The new content of `result.json`.
    """
    result = read_json_object(run / "result.json")
    settings = parse_settings(result["settings"], "result.json")
    model = train_centralised(folders, settings, run / "centralised", report=report)
    scores = score_at_hospitals(
        model, folders, settings, run / "centralised", smallest_group=smallest_group
    )
    for row in result["hospitals"]:
        score = scores[row["name"]]
        row["centralised"] = None if score is None else score.model_dump()
    write_json(run / "result.json", result)
    note = render(run)
    return add_note(run, note) if note else result
