"""Scores models on held-out patients: Dice at the scans' own resolution."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from consortium.models.networks import build_network
from consortium.settings.base import Settings
from consortium.tasks.segmentation.datalist import Case
from consortium.tasks.segmentation.inference import PreparedCase, load_case, predict_case
from consortium.tasks.segmentation.scores import dice

CPU = torch.device("cpu")


class Examiner:
    """Scores models on the same patients; reads them once.

    Args:
        cases: by patient.
        settings: of the models.
    """

    def __init__(self, cases: Mapping[str, Case], settings: Settings):
        self._settings = settings
        self._cases: dict[str, PreparedCase] = {
            patient: load_case(settings, case.image, case.label, case.values)
            for patient, case in sorted(cases.items())
        }

    def score(self, model: Path | Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
        """Returns the Dice of each patient's structures.

        Args:
            model: weights, or their `.safetensors` file.
        """
        network = build_network(self._settings)
        network.load_state_dict(load_file(model) if isinstance(model, Path) else model)
        scores = {}
        for patient, case in self._cases.items():
            assert case.label_original is not None
            found = predict_case(network, case, self._settings, CPU)
            names = self._settings.data.labels
            scores[patient] = dict(zip(names, dice(found, case.label_original), strict=True))
        return scores

    def mean_scores(self, model: Path | Mapping[str, Tensor]) -> dict[str, float]:
        """Returns each patient's Dice, averaged over the structures."""
        return {
            patient: round(sum(dices.values()) / len(dices), 5)
            for patient, dices in self.score(model).items()
        }
