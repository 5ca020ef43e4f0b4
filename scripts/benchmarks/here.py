"""A federation in one process, without FLARE: the same coordinator, hospitals and bytes.

For comparisons of many settings, where FLARE's transport would only cost time.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from consortium.client.trainer import LocalTrainer
from consortium.core.site_policy import Site
from consortium.orchestration.quorum import declare_quorum
from consortium.protocol.pipeline import Pipeline, build_pipeline
from consortium.protocol.update import Update, update_from_wire, update_to_wire
from consortium.server.run import Coordinator
from consortium.server.state import Study
from consortium.settings.base import Settings


def federate(
    folders: Mapping[str, Path],
    settings: Settings,
    workspace: Path,
    attack: Mapping[str, float] | None = None,
) -> dict[str, dict[str, Tensor]]:
    """Runs the rounds of a job.

    Args:
        folders: of the hospitals, by name.
        settings: of the job.
        workspace: for checkpoints and results.
        attack: hospitals that send their change times a factor.

    Returns:
        For each hospital the model that the run leaves, with what the hospital kept to itself.

    Raises:
        UpdateRefused: an update is not taken.
    """
    names = tuple(sorted(folders))
    study = Study("here", "here", declare_quorum(names, {}), settings)
    coordinator = Coordinator(
        study, results=workspace / "run", checkpoints=workspace / "checkpoints"
    )
    hospitals = {
        name: LocalTrainer(
            Site(name, folders[name], workspace / "state" / name),
            settings,
            device=torch.device("cpu"),
        )
        for name in names
    }
    pipeline = build_pipeline(settings.update)
    while coordinator.rounds_done < settings.rounds:
        number, _ = coordinator.open_round()
        for name in names:
            trained = hospitals[name].train(coordinator.model, number)
            update = _through(pipeline, trained, workspace / "state" / name)
            if attack and name in attack:
                update = _times(attack[name], update)
            refusal = coordinator.submit(update)
            if refusal is not None:
                raise refusal
        coordinator.close_round()
    model = coordinator.final_model
    return {name: hospital.with_own_buffers(model) for name, hospital in hospitals.items()}


def _times(factor: float, update: Update) -> Update:
    """A hostile hospital's update: its change times a factor; counters as they are."""
    tensors = {
        name: tensor * factor if tensor.is_floating_point() else tensor
        for name, tensor in update.tensors.items()
    }
    return replace(update, tensors=tensors)


def _through(pipeline: Pipeline, update: Update, folder: Path) -> Update:
    """An update as the orchestrator receives it."""
    sent = pipeline.client(*update_to_wire(update), folder)
    return update_from_wire(*pipeline.server(*sent), update.hospital)
