"""Runs the rounds of a job in this process and its workers, to compare many settings."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from consortium.client.trainer import LocalTrainer
from consortium.core.site_policy import ALL_COLUMNS, Privacy, Site
from consortium.protocol.schema import Reduction
from consortium.protocol.update import Update
from consortium.runs.hospitals import Answer
from consortium.runs.in_process import InProcessFederation, study_of
from consortium.settings.base import Settings


def federate(
    folders: Mapping[str, Path],
    settings: Settings,
    workspace: Path,
    attack: Mapping[str, float] | None = None,
) -> dict[str, dict[str, Tensor]]:
    """Runs the rounds of a job.

    Args:
        folders: data folders of the hospitals, by name.
        settings: of the job.
        workspace: for checkpoints and results.
        attack: factors by which hostile hospitals multiply their change.

    Returns:
        For each hospital the final model, with the hospital's own local tensors.

    Raises:
        Incomplete: a hospital failed, or its update was refused.
    """
    names = sorted(folders)
    privacy = Privacy(columns=ALL_COLUMNS)
    sites = {
        name: Site(name, folders[name], workspace / "state" / name, privacy=privacy)
        for name in names
    }

    def tamper(name: str, answer: Answer) -> Answer:
        factor = (attack or {}).get(name)
        return _times(factor, answer) if factor and isinstance(answer, Update) else answer

    with InProcessFederation(
        study_of(settings, names),
        list(sites.values()),
        results=workspace / "run",
        checkpoints=workspace / "checkpoints",
        tamper=tamper,
    ) as federation:
        federation.train()
        state = federation.run.state
        model = dict(federation.run.checkpoints.final_model(state))
    if not any(spec.reduction is Reduction.LOCAL for spec in state.schema.values()):
        return dict.fromkeys(names, model)
    cpu = torch.device("cpu")
    return {
        name: LocalTrainer(site, settings, device=cpu).with_own_buffers(model)
        for name, site in sites.items()
    }


def _times(factor: float, update: Update) -> Update:
    """Multiplies the change in an update by a factor; counters stay as they are."""
    tensors = {
        name: tensor * factor if tensor.is_floating_point() else tensor
        for name, tensor in update.tensors.items()
    }
    return replace(update, tensors=tensors)
