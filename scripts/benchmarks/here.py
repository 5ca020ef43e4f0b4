"""A federation in one process, without FLARE: the same coordinator, hospitals and bytes.

For comparisons of many settings, where FLARE's transport would only cost time.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from consortium.coordinator import Coordinator, Study
from consortium.orchestration.quorum import declare_quorum
from consortium.settings import Settings
from consortium.training.site import Site
from consortium.training.train import Hospital


def federate(
    folders: Mapping[str, Path], settings: Settings, workspace: Path
) -> dict[str, dict[str, Tensor]]:
    """Runs the rounds of a job.

    Args:
        folders: of the hospitals, by name.
        settings: of the job.
        workspace: for journal and results.

    Returns:
        For each hospital the model that the run leaves, with what the hospital kept to itself.
    """
    names = tuple(sorted(folders))
    study = Study("here", "here", declare_quorum(names, {}), settings)
    coordinator = Coordinator(study, results=workspace / "run", journal=workspace / "journal")
    hospitals = {
        name: Hospital(
            Site(name, folders[name], workspace / "state" / name),
            settings,
            device=torch.device("cpu"),
        )
        for name in names
    }
    while coordinator.rounds_done < settings.rounds:
        number, _ = coordinator.open_round()
        for name in names:
            refusal = coordinator.offer(hospitals[name].train(coordinator.model, number))
            if refusal is not None:
                raise refusal
        coordinator.close_round()
    model = coordinator.final_model
    return {name: hospital.with_own_buffers(model) for name, hospital in hospitals.items()}
