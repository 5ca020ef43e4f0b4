"""Finds the model that a job starts from, where its submitter is not the person at this machine.

A researcher may start from a run of their own, or from a model that the orchestrator's operator
offers. Any other name gives one and the same answer, whatever is there.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from consortium.core.errors import ConsortiumError, Refused
from consortium.core.names import is_run_id
from consortium.models.averaging import ModelAverage
from consortium.models.bundle import load_start, load_state, require_match_of
from consortium.models.networks import build_network
from consortium.orchestration.checkpoints import CheckpointStore
from consortium.orchestration.owners import Owner, is_owner
from consortium.server.state import AVERAGE
from consortium.settings.base import Settings

LoadStart = Callable[[Settings], dict[str, Tensor]]
"""Loads the weights that `model.from` of the settings names."""
RUN = "run:"
"""Before the id of a run in `model.from`."""
_MISMATCH = "wrong-"
"""Beginning of the codes of a model that was read and does not fit the job."""
_log = logging.getLogger(__name__)


def load_local(settings: Settings) -> dict[str, Tensor]:
    """Loads the start model of a person who runs the job on their own machine: any path.

    Raises:
        UsageError, Refused: see `consortium.models.bundle.load_start`.
    """
    return load_start(Path(settings.model.from_ or ""), settings)


class StartModels:
    """The models that one submitter's jobs may start from.

    Args:
        offered: folder of the models that the operator offers, or None.
        runs: folder that holds one folder for each run.
        submitter: of the job.
    """

    def __init__(self, offered: Path | None, runs: Path, submitter: Owner):
        self._offered = Path(os.path.normpath(offered)) if offered is not None else None
        self._runs, self._submitter = runs, submitter

    def load(self, settings: Settings) -> dict[str, Tensor]:
        """Loads the model that `model.from` names; see `LoadStart`.

        Raises:
            Refused: `no-start-model`, with the same sentence for everything that the submitter may
                not use or that is no model; `wrong-architecture`, `wrong-task` or a code of the
                task for a model that the submitter may use.
        """
        name = settings.model.from_ or ""
        try:
            if name.startswith(RUN):
                return self._load_run(name.removeprefix(RUN), settings)
            return load_start(self._find_offered(name), settings)
        except (ConsortiumError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
            _log.warning("the start model %r was not loaded: %s", name, error)
            if isinstance(error, Refused) and error.code.startswith(_MISMATCH):
                raise Refused(error.code, error.what, "model.from", error.todo) from None
        raise Refused(
            "no-start-model",
            "there is no such model for this submitter",
            "model.from",
            "name a run of your own (run:ID), or a model that the orchestrator's operator offers",
        )

    def _find_offered(self, name: str) -> Path:
        """Returns the path of an offered model; looks at no path outside of the folder."""
        if self._offered is None:
            raise ValueError("the operator offers no models")
        path = Path(os.path.normpath(self._offered / name))
        folder = self._offered.resolve()
        if not path.is_relative_to(self._offered) or not path.resolve().is_relative_to(folder):
            raise ValueError("it lies outside of the operator's folder")
        return path

    def _load_run(self, run: str, settings: Settings) -> dict[str, Tensor]:
        """Loads the model that a run of the submitter keeps, as its last checkpoint has it."""
        if not is_run_id(run) or not is_owner(self._runs / run, self._submitter):
            raise ValueError("it is no run of the submitter")
        folder = self._runs / run / "checkpoints"
        checkpoint = CheckpointStore(folder).read()
        if checkpoint is None:
            raise ValueError("the run has no checkpoint")
        require_match_of(checkpoint.settings, settings, run)
        expected = build_network(settings).state_dict()
        keep = checkpoint.settings["selection"]["keep"]
        kept = checkpoint.best if keep == "best" else checkpoint.model
        model = load_state(folder / kept, expected)
        if not checkpoint.averaged:
            return model
        sums = load_state(folder / checkpoint.more[AVERAGE], ModelAverage.blank(model))
        return dict(ModelAverage(checkpoint.averaged, sums).mean(model))
