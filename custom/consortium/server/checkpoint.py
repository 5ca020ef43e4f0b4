"""Saves and loads a run's state: tensors as safetensors files, the rest in the checkpoint's record.

Invariant: a run that is loaded ends with the same bytes as one that never stopped.
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from consortium.aggregation.adaptive_server import AdaptiveServer
from consortium.aggregation.server_momentum import ServerMomentum
from consortium.core.errors import Refused
from consortium.core.seeds import derive_seed
from consortium.models.averaging import ModelAverage
from consortium.models.bundle import load_state
from consortium.models.networks import build_network
from consortium.orchestration.checkpoints import Checkpoint, CheckpointStore
from consortium.orchestration.model_selection import ModelSelection
from consortium.orchestration.run import RunRecord
from consortium.protocol.codec import digest
from consortium.protocol.schema import schema_of
from consortium.server.start_model import LoadStart, load_local
from consortium.server.state import AVERAGE, OPTIMISER, RunState, Study, model_file


class RunCheckpoints:
    """The checkpoints of one run.

    Args:
        folder: holds them; a run that is there is continued.
        load_start: loads the model that a new run starts from, if the job names one.
    """

    def __init__(self, folder: Path, load_start: LoadStart = load_local):
        self.folder, self._load_start = folder, load_start
        self._store = CheckpointStore(folder)

    @property
    def notes(self) -> list[str]:
        """Problems in the folder that did not stop the run, in words."""
        return list(self._store.notes)

    def load(self, study: Study) -> RunState:
        """Loads the state after the last checkpoint, or that of a new run if there is none.

        Raises:
            Refused: the checkpoints belong to another run or to other settings, or the start model
                does not fit.
        """
        settings = study.settings
        network = build_network(settings, seed=derive_seed(settings.seed, "model"))
        fresh = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
        checkpoint = self._store.read()
        if checkpoint is None and settings.model.from_ is not None:
            fresh = self._load_start(settings)
        state = RunState(
            study=study,
            schema=schema_of(network, local_buffers=settings.update.buffers == "local"),
            trainable=tuple(name for name, p in network.named_parameters() if p.requires_grad),
            model=fresh,
            model_sha256="",
            run=RunRecord(study.run, study.job, list(study.hospitals), settings.rounds),
            selection=ModelSelection(settings.selection.keep, settings.selection.patience),
            start_file=model_file(0),
        )
        if checkpoint is not None:
            self._continue(state, checkpoint)
        state.model_sha256 = digest(state.model)
        return state

    def _continue(self, state: RunState, checkpoint: Checkpoint) -> None:
        rounds = state.settings.rounds
        same = {**checkpoint.settings, "rounds": rounds} == state.study.dump_settings()
        if checkpoint.run != state.study.run or not same:
            raise Refused(
                "other-run",
                "the workspace holds a run with other settings",
                str(self.folder),
                "resume with the same settings (except the rounds) or use a new workspace",
            )
        state.model = self.load_tensors(checkpoint.model, state.model)
        if digest(state.model) != checkpoint.model_sha256:
            raise Refused(
                "torn-model",
                "the checkpoint's model differs from the one in its record",
                str(self.folder / checkpoint.model),
                "use a new workspace",
            )
        state.start_file, state.best_file = checkpoint.start, checkpoint.best
        state.run.records = list(checkpoint.records)
        state.selection = ModelSelection.from_dict(checkpoint.selection)
        state.run.stopped_early = (
            checkpoint.stopped_early and rounds <= checkpoint.settings["rounds"]
        )
        state.more = dict(checkpoint.more)
        # If none of an extended run's averaged rounds is closed yet, its average starts anew.
        if AVERAGE in checkpoint.more and state.rounds_done > state.first_averaged:
            state.averaged = checkpoint.averaged

    def save(self, state: RunState, *, flush: bool = True) -> None:
        """Writes the checkpoint of a state whose files `keep` has written.

        Args:
            state: to save.
            flush: see `CheckpointStore.write`.

        Raises:
            EnvironmentProblem: the disk is full; the last checkpoint stays valid.
        """
        self._store.write(
            Checkpoint(
                run=state.study.run,
                settings=state.study.dump_settings(),
                records=state.run.records,
                selection=state.selection.to_dict(),
                model=model_file(state.rounds_done),
                model_sha256=state.model_sha256,
                best=state.best_file,
                start=state.start_file,
                more=state.more,
                averaged=state.averaged,
                stopped_early=state.run.stopped_early,
            ),
            flush=flush,
        )

    def keep(self, name: str, tensors: Mapping[str, Tensor], *, flush: bool = True) -> None:
        """Writes a file of tensors that the next checkpoint names.

        Args:
            name: of the file.
            tensors: by name.
            flush: see `CheckpointStore.write`.

        Raises:
            EnvironmentProblem: the disk is full; the last checkpoint stays valid.
        """
        self._store.write_file(name, lambda path: save_file(dict(tensors), path), flush=flush)

    def keep_spare(self, name: str, tensors: Mapping[str, Tensor], *, flush: bool = True) -> None:
        """Writes the second copy of a file that later checkpoints name too; see `keep`."""
        self._store.write_spare(name, lambda path: save_file(dict(tensors), path), flush=flush)

    def load_tensors(self, name: str, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Reads a file of tensors with the names, shapes and dtypes of `like`."""
        return load_state(self.folder / name, like)

    def load_optimiser(self, state: RunState) -> ServerMomentum | AdaptiveServer:
        """Restores the server optimiser from the last checkpoint."""
        optimiser = _new_optimiser(state)
        if OPTIMISER in state.more:
            blank = optimiser.blank(state.model)
            optimiser.state = self.load_tensors(state.more[OPTIMISER], blank)
        return optimiser

    def load_average(self, state: RunState) -> ModelAverage:
        """Restores the average of the last models from the last checkpoint."""
        if not state.averaged:
            return ModelAverage()
        sums = self.load_tensors(state.more[AVERAGE], ModelAverage.blank(state.model))
        return ModelAverage(state.averaged, sums)

    def start_model(self, state: RunState) -> Mapping[str, Tensor]:
        """Returns the model that the first round started from."""
        return (
            self.load_tensors(state.start_file, state.model) if state.rounds_done else state.model
        )

    def final_model(self, state: RunState) -> Mapping[str, Tensor]:
        """Returns the model to score at the end: the average if the job keeps it, else the last.

        A run that ends before its averaged rounds has only its last model.
        """
        return self.load_average(state).mean(state.model) if state.averaged else state.model

    def kept_model(self, state: RunState) -> Mapping[str, Tensor]:
        """Returns the model that goes to the results."""
        if state.settings.selection.keep == "best":
            return self.load_tensors(state.best_file, state.model)
        return self.final_model(state)


def _new_optimiser(state: RunState) -> ServerMomentum | AdaptiveServer:
    chosen = state.settings.server
    if chosen.adaptive is None:
        return ServerMomentum(chosen.momentum, chosen.learning_rate, state.trainable)
    return AdaptiveServer(
        chosen.adaptive.method,
        momentum=chosen.momentum,
        learning_rate=chosen.learning_rate,
        beta2=chosen.adaptive.beta2,
        tau=chosen.adaptive.tau,
        trainable=state.trainable,
    )
