"""The rounds of a run: opened, answered and closed, without FLARE.

Invariants: every closed round is in a checkpoint; a round that could not be saved did not happen; a
run that is resumed from a checkpoint ends with the same bytes as one that never stopped.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path

from torch import Tensor

from consortium.core.errors import Failure
from consortium.orchestration.exclusion import excluded_hospitals
from consortium.orchestration.model_selection import (
    HospitalScore,
    SelectionDecision,
    plausible_patients,
)
from consortium.orchestration.quorum import Quorum
from consortium.orchestration.records import RoundRecord
from consortium.orchestration.rounds import choose
from consortium.protocol.codec import digest
from consortium.protocol.metrics import Metrics
from consortium.protocol.schema import bytes_of, shared_tensors, values_of
from consortium.protocol.update import Update, UpdateRefused, apply_change
from consortium.server.checkpoint import RunCheckpoints
from consortium.server.collector import Report, UpdateCollector
from consortium.server.results import append_round, write_rounds
from consortium.server.start_model import LoadStart, load_local
from consortium.server.state import AVERAGE, OPTIMISER, RunState, Study, model_file
from consortium.settings.base import Settings


class TrainingRun:
    """Runs the rounds of one run.

    Args:
        study: the job's declaration.
        results: folder for the results; `rounds.jsonl` in it grows with every round.
        checkpoints: folder for the checkpoints; a run that is there is continued.
        load_start: see `consortium.server.checkpoint.RunCheckpoints`.

    Attributes:
        state: what the checkpoints save and load.
        checkpoints: of this run.
        results: folder for the results.

    Raises:
        Refused: the checkpoints belong to another run or to other settings, or the start model does
            not fit.
    """

    def __init__(
        self,
        study: Study,
        *,
        results: Path,
        checkpoints: Path,
        load_start: LoadStart = load_local,
    ):
        self.results, self._load_start = results, load_start
        self.checkpoints = RunCheckpoints(checkpoints, load_start)
        self.state = self.checkpoints.load(study)
        self._collector = UpdateCollector(study.settings, self.state.schema)
        self._asked: tuple[str, ...] = ()
        write_rounds(results, self.state.run.records)

    @property
    def settings(self) -> Settings:
        """The job's settings."""
        return self.state.settings

    @property
    def quorum(self) -> Quorum:
        """The study's quorum."""
        return self.state.study.quorum

    @property
    def buffers_updates(self) -> bool:
        """Whether updates stay in memory until their round closes."""
        return self._collector.buffers_updates

    @property
    def update_bytes(self) -> int:
        """Size of the tensors of an update."""
        return bytes_of(shared_tensors(self.state.schema))

    @property
    def update_values(self) -> int:
        """Number of elements of all tensors of an update."""
        return values_of(shared_tensors(self.state.schema))

    @property
    def left_out(self) -> tuple[str, ...]:
        """Hospitals that are not asked any more: they broke jobs, or were refused too often."""
        return excluded_hospitals(self.state.run.records, self.quorum, self.state.study.left_out)

    @property
    def asked(self) -> tuple[str, ...]:
        """Hospitals that are asked in the open round."""
        return self._asked

    def open_round(self) -> tuple[int, str]:
        """Opens the next round.

        Returns:
            Its number and the digest of the model to send.
        """
        state = self.state
        self._asked = choose(self.quorum, self.settings.seed, state.rounds_done)
        self._collector.open(state.rounds_done, state.model_sha256, self._asked)
        return state.rounds_done, state.model_sha256

    def submit(self, answer: Update | UpdateRefused | Failure) -> UpdateRefused | None:
        """Submits an answer to the open round.

        Args:
            answer: an update, a refusal from decoding one, or a hospital's failure.

        Returns:
            The refusal, which is recorded, or None.
        """
        if isinstance(answer, Failure):
            self._collector.fail(answer)
            return None
        if isinstance(answer, UpdateRefused):
            self._collector.refuse(answer)
            return answer
        try:
            self._collector.submit(answer)
        except UpdateRefused as refusal:
            return refusal
        return None

    def refusals_of(self, hospital: str) -> int:
        """Counts the refusals of a hospital since the last round was closed."""
        return self._collector.refusals_of(hospital)

    def record_late(self, hospital: str) -> None:
        """Records that a hospital has an update for a closed round."""
        self._collector.record_late(hospital)

    def close_round(self, *, flush: bool = True) -> Mapping[str, Tensor]:
        """Aggregates the open round, records it and saves the new state.

        Args:
            flush: see `consortium.orchestration.checkpoints.CheckpointStore.write`.

        Returns:
            The new model.

        Raises:
            Incomplete: fewer updates were accepted than the quorum needs.
            EnvironmentProblem: the disk is full; the state is unchanged.
        """
        change, report = self._collector.close(self.quorum.minimum, self.quorum.mandatory)
        following = self._advance(change, flush)
        decision = following.selection.observe(
            self.state.rounds_done, scores_of(report.metrics, report.cases, self.settings)
        )
        following.best_file = self._keep_best(decision, flush)
        record = self._record(report, decision, following.model_sha256)
        following.run = replace(
            self.state.run,
            records=[*self.state.run.records, record],
            stopped_early=decision.stop,
        )
        self.checkpoints.save(following, flush=flush)
        self.state = following
        append_round(self.results, record)
        return following.model

    def _advance(self, change: Mapping[str, Tensor], flush: bool) -> RunState:
        """Writes the next model's files and returns its state, still without the round's record."""
        state, checkpoints = self.state, self.checkpoints
        number = state.rounds_done
        if number == 0:
            checkpoints.keep(state.start_file, state.model, flush=flush)
            checkpoints.keep_spare(state.start_file, state.model, flush=flush)
        more: dict[str, str] = {}
        optimiser = checkpoints.load_optimiser(state)
        model = apply_change(state.model, optimiser.step(change))
        with ThreadPoolExecutor(1) as executor:
            model_sha256 = executor.submit(digest, model)
            checkpoints.keep(model_file(number + 1), model, flush=flush)
        if optimiser.has_state:
            more[OPTIMISER] = f"velocity-{number + 1:06d}.safetensors"
            checkpoints.keep(more[OPTIMISER], optimiser.state, flush=flush)
        del optimiser
        averaged = state.averaged
        if state.settings.selection.keep == "average" and number >= state.first_averaged:
            average = checkpoints.load_average(state)
            average.add(model)
            more[AVERAGE] = f"average-{number + 1:06d}.safetensors"
            checkpoints.keep(more[AVERAGE], average.sums, flush=flush)
            averaged = average.count
        return replace(
            state,
            model=model,
            model_sha256=model_sha256.result(),
            selection=deepcopy(state.selection),
            more=more,
            averaged=averaged,
        )

    def _keep_best(self, decision: SelectionDecision, flush: bool) -> str:
        """Returns the file of the best model; if that is the round's base, writes its spare."""
        state = self.state
        if state.settings.selection.keep != "best":
            return model_file(state.rounds_done + 1)  # nobody reads it
        if not decision.best:
            return state.best_file
        base = model_file(state.rounds_done)
        if base != state.start_file:
            self.checkpoints.keep_spare(base, state.model, flush=flush)
        return base

    def _record(
        self, report: Report, decision: SelectionDecision, result_sha256: str
    ) -> RoundRecord:
        return RoundRecord(
            round=self.state.rounds_done,
            base_sha256=self.state.model_sha256,
            asked=list(self._asked),
            answered=report.answered,
            refused=report.refused,
            late=report.late,
            lost=report.lost,
            failures=report.failures,
            cases=report.cases,
            metrics={name: metrics.model_dump() for name, metrics in report.metrics.items()},
            treatment={name: asdict(treated) for name, treated in report.treatment.items()},
            score=decision.score,
            best=decision.best,
            result_sha256=result_sha256,
        )

    def without(self, hospital: str) -> "TrainingRun":
        """Returns a run of the study without a hospital, with its own checkpoints and results."""
        study = self.state.study
        return TrainingRun(
            replace(
                study,
                run=f"{study.run} without {hospital}",
                quorum=study.quorum.without(hospital),
            ),
            results=self.results / "without" / hospital,
            checkpoints=self.checkpoints.folder / "without" / hospital,
            load_start=self._load_start,
        )


def scores_of(
    metrics: Mapping[str, Metrics], cases: Mapping[str, int], settings: Settings
) -> dict[str, HospitalScore]:
    """Returns the validation scores that select a model, by hospital.

    Args:
        metrics: by hospital.
        cases: training cases by hospital; they limit the patients by which a score counts.
        settings: the job's.
    """
    scores = {}
    for name, answer in metrics.items():
        score = answer.validation
        value = settings.scored.headline(score.figures) if score is not None else None
        if score is not None and score.patients is not None and value is not None:
            most = plausible_patients(cases.get(name, 0), settings.validation_fraction)
            scores[name] = HospitalScore(value, min(score.patients, most))
    return scores
