"""The orchestrator's side of a run, without FLARE.

It joins what the rooms do: hands out the model, takes updates through the collector, chooses the
model that is kept, checkpoints every round, and writes what a run leaves. FLARE's components call
it, and so can a loop in a test. What always holds: a round that is closed is on disk, and a run
that is resumed from there ends with the same bytes as one that never stopped.
"""

import json
import platform
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from consortium.aggregation.adaptive_server import AdaptiveServer
from consortium.aggregation.server_momentum import ServerMomentum
from consortium.confounding.probe_statistics import ProbeStatistics
from consortium.confounding.run_probe import run_probe
from consortium.core.errors import ConsortiumError, Failure, Refused
from consortium.core.files import write_json, write_text
from consortium.core.seeds import derive_seed
from consortium.models.averaging import ModelAverage, first_averaged
from consortium.models.bundle import load_start, load_state, write_bundle
from consortium.models.networks import build_network
from consortium.orchestration.checkpoints import Checkpoint, CheckpointStore
from consortium.orchestration.flagging import find_flagged
from consortium.orchestration.model_selection import (
    HospitalScore,
    ModelSelection,
    SelectionDecision,
)
from consortium.orchestration.quorum import Quorum
from consortium.orchestration.records import RoundRecord
from consortium.orchestration.rounds import choose
from consortium.orchestration.run import Run
from consortium.protocol.codec import digest
from consortium.protocol.metrics import Metrics, ScoreSpec
from consortium.protocol.schema import bytes_of, schema_of, shared_tensors
from consortium.protocol.update import Expected, Update, UpdateRefused, apply_change, validate
from consortium.report.curves import CurveWriter
from consortium.report.page import render_report
from consortium.server.collector import Report, UpdateCollector
from consortium.settings.base import Model, Settings

AVERAGE, SERVER = "average", "velocity"
FINAL, ALONE, CROSS_SITE = "the final scoring", "the baseline", "the cross-site evaluation"
CONFOUNDING, WITHOUT = "the confounding probe", "the training without one hospital"


@dataclass(frozen=True, slots=True)
class Study:
    """What a job declares.

    Attributes:
        run: id of the run.
        job: name of the job.
        quorum: who takes part, and how many of them a round needs.
        settings: the job's.
        left_out: hospitals that broke the run so often that it goes on without them.
    """

    run: str
    job: str
    quorum: Quorum
    settings: Settings
    left_out: tuple[str, ...] = ()

    @property
    def hospitals(self) -> tuple[str, ...]:
        """That take part, sorted."""
        return self.quorum.hospitals


class Coordinator:
    """Leads one run.

    Args:
        study: what the job declares.
        results: folder for what the run leaves.
        checkpoints: folder for what survives a kill; its content is continued where there is any.

    Raises:
        Refused: the checkpoints is of another run or of other settings, or the start model does not
            fit.
    """

    def __init__(self, study: Study, *, results: Path, checkpoints: Path):
        self._study, self._results, self._checkpoints = study, results, CheckpointStore(checkpoints)
        settings = study.settings
        network = build_network(settings, seed=derive_seed(settings.seed, "model"))
        self._schema = schema_of(network, local_buffers=settings.update.buffers == "local")
        fresh = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
        self.run = Run(study.run, study.job, list(study.hospitals), settings.rounds)
        self._selection = ModelSelection(settings.selection.keep, settings.selection.patience)
        self._collector = UpdateCollector(settings, self._schema)
        self._more: dict[str, str] = {}  # files of the checkpoints, as of the last round
        self._averaged = 0
        self._asked: tuple[str, ...] = ()
        self._trainable = [name for name, p in network.named_parameters() if p.requires_grad]
        self._cross_site: dict[str, dict[str, Any]] = {}
        self._final_score: float | None = None
        self._statements: dict[str, ProbeStatistics] = {}
        self._without: dict[str, dict[str, Any] | None] = {}
        checkpoint = self._checkpoints.read()
        if checkpoint is None:
            if settings.model.from_ is not None:
                fresh = load_start(Path(settings.model.from_), settings)
            self.model = fresh
            self._start_file, self._best_file = _model_file(0), ""
        else:
            self._continue(checkpoint, fresh)
        closed = [record.to_dict() for record in self.run.records]
        self._curves = CurveWriter(results / "tensorboard", closed, settings)
        self._model_sha256 = digest(self.model)

    def _continue(self, checkpoint: Checkpoint, fresh: Mapping[str, Tensor]) -> None:
        rounds = self._study.settings.rounds
        same = {**checkpoint.settings, "rounds": rounds} == self._dump_settings()
        if checkpoint.run != self._study.run or not same:
            raise Refused(
                "other-run",
                "the workspace holds a run of other settings",
                str(self._checkpoints.folder),
                "resume with the same settings (but for the rounds) or use a new workspace",
            )
        self.model = load_state(self._checkpoints.folder / checkpoint.model, fresh)
        if digest(self.model) != checkpoint.model_sha256:
            raise Refused(
                "torn-model",
                "the checkpoints's model is not the one its record names",
                str(self._checkpoints.folder / checkpoint.model),
                "use a new workspace",
            )
        self._start_file, self._best_file = checkpoint.start, checkpoint.best
        self.run.records = list(checkpoint.records)
        self._selection = ModelSelection.from_dict(checkpoint.selection)
        self.run.stopped_early = (
            checkpoint.stopped_early and rounds <= checkpoint.settings["rounds"]
        )
        # Of a run that is extended so far that the last rounds are all ahead, it begins again.
        self._more = dict(checkpoint.more)
        if AVERAGE in checkpoint.more and self.rounds_done > self._averaged_from:
            self._averaged = checkpoint.averaged

    # What is kept beside the model is several times its size, and in memory only at a round's end.

    def _server(self) -> ServerMomentum | AdaptiveServer:
        """As it stood after the last round."""
        chosen = self._study.settings.server
        server: ServerMomentum | AdaptiveServer
        if chosen.adaptive is None:
            server = ServerMomentum(chosen.momentum, chosen.learning_rate, self._trainable)
        else:
            server = AdaptiveServer(
                chosen.adaptive.method,
                momentum=chosen.momentum,
                learning_rate=chosen.learning_rate,
                beta2=chosen.adaptive.beta2,
                tau=chosen.adaptive.tau,
                trainable=self._trainable,
            )
        if SERVER in self._more:
            server.state = self._load(self._more[SERVER], server.blank(self.model))
        return server

    def _average(self) -> ModelAverage:
        """As it stood after the last round."""
        if not self._averaged:
            return ModelAverage()
        sums = self._load(self._more[AVERAGE], ModelAverage.blank(self.model))
        return ModelAverage(self._averaged, sums)

    def _load(self, name: str, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return load_state(self._checkpoints.folder / name, like)

    @property
    def settings(self) -> Settings:
        """The job's settings."""
        return self._study.settings

    @property
    def buffers_updates(self) -> bool:
        """Whether updates stay in memory until their round closes."""
        return self._collector.buffers_updates

    @property
    def update_bytes(self) -> int:
        """Of the tensors of an update."""
        return bytes_of(shared_tensors(self._schema))

    @property
    def notes(self) -> list[str]:
        """What was found wrong and did not stop the run, in words."""
        return list(self._checkpoints.notes)

    @property
    def quorum(self) -> Quorum:
        """What the study declares."""
        return self._study.quorum

    @property
    def model_sha256(self) -> str:
        """Digest of the model that the next round starts from."""
        return self._model_sha256

    @property
    def rounds_done(self) -> int:
        """Closed rounds; also the number of the model that is handed out next."""
        return len(self.run.records)

    @property
    def is_done(self) -> bool:
        """Whether no round is left, by the job's number or because the selection ended the run."""
        return self.run.stopped_early or self.rounds_done >= self.settings.rounds

    @property
    def final_model(self) -> Mapping[str, Tensor]:
        """The model that is scored at the end: the average where the job keeps it, else the last.

        A run that is broken off before the rounds that are averaged has only its last model.
        """
        return self._average().mean(self.model) if self._averaged else self.model

    @property
    def _averaged_from(self) -> int:
        return first_averaged(self.run.rounds, self._study.settings.selection.share)

    @property
    def start_model(self) -> Mapping[str, Tensor]:
        """The model that round 0 started from."""
        return self._load(self._start_file, self.model) if self.run.records else self.model

    @property
    def left_out(self) -> tuple[str, ...]:
        """Hospitals that the run goes on without."""
        return self._study.left_out

    @property
    def asked(self) -> tuple[str, ...]:
        """Hospitals that the open round asks."""
        return self._asked

    def open_round(self) -> tuple[int, str]:
        """Opens the next round.

        Returns:
            Its number and the digest of the model to hand out.
        """
        self._asked = choose(self.quorum, self.settings.seed, self.rounds_done)
        self._collector.open(self.rounds_done, self._model_sha256, self._asked)
        return self.rounds_done, self._model_sha256

    def submit(self, answer: Update | UpdateRefused | Failure) -> UpdateRefused | None:
        """Takes an answer to the open round.

        Args:
            answer: an update, a refusal from rebuilding one, or what a hospital says went wrong.

        Returns:
            The refusal, where the answer is not taken; it is recorded.
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

    def late(self, hospital: str) -> None:
        """Records that a hospital's update comes after its round has closed."""
        self._collector.late(hospital)

    def close_round(self) -> Mapping[str, Tensor]:
        """Aggregates, chooses, checkpoints and records the open round.

        Returns:
            The new model.

        Raises:
            Incomplete: fewer updates were taken than the quorum needs.
            EnvironmentProblem: the disk is full; the round before stands in the checkpoints.
        """
        number = self.rounds_done
        change, report = self._collector.close(self.quorum.minimum, self.quorum.mandatory)
        base = self.model
        before = (base, self._model_sha256, self._best_file, self._more, self._averaged)
        try:
            self._advance(number, change)
            decision = self._selection.observe(
                number, _scores(report.metrics, self.settings.scored)
            )
            record = self._record(number, before[1], report, decision)
            self.run.records.append(record)
            self.run.stopped_early = decision.stop
            files = {self._start_file: base} if number == 0 else {}
            if decision.best:
                self._best_file = _model_file(number)
            self._write_checkpoint(files)
        except ConsortiumError:
            # The round did not happen: what is written now must not say that it did.
            del self.run.records[number:]
            self.model, self._model_sha256, self._best_file, self._more, self._averaged = before
            raise
        self._write_rounds()
        self._curves.round(record.to_dict())
        return self.model

    def _advance(self, number: int, change: Mapping[str, Tensor]) -> None:
        """Makes the next model, and puts what is kept beside it into the checkpoints's folder."""
        more: dict[str, str] = {}
        server = self._server()
        self.model = apply_change(self.model, server.step(change))
        with ThreadPoolExecutor(1) as beside:
            model_sha256 = beside.submit(digest, self.model)
            self._checkpoints.keep(_model_file(number + 1), _writer(self.model))
            self._model_sha256 = model_sha256.result()
        if server.keeps:
            more[SERVER] = f"velocity-{number + 1:06d}.safetensors"
            self._checkpoints.keep(more[SERVER], _writer(server.state))
        del server
        if self._study.settings.selection.keep == "average" and number >= self._averaged_from:
            average = self._average()
            average.add(self.model)
            more[AVERAGE] = f"average-{number + 1:06d}.safetensors"
            self._checkpoints.keep(more[AVERAGE], _writer(average.sums))
            self._averaged = average.count
        self._more = more

    def _record(
        self, number: int, base_sha256: str, report: Report, decision: SelectionDecision
    ) -> RoundRecord:
        return RoundRecord(
            round=number,
            base_sha256=base_sha256,
            asked=list(self._asked),
            answered=report.answered,
            refused=report.refused,
            late=report.late,
            lost=report.lost,
            failures=report.failures,
            cases=report.cases,
            metrics={name: said.model_dump() for name, said in report.metrics.items()},
            treatment={name: asdict(said) for name, said in report.treatment.items()},
            score=decision.score,
            best=decision.best,
            result_sha256=self._model_sha256,
        )

    def answer(
        self, question: str, answers: Mapping[str, Metrics | Failure | None]
    ) -> dict[str, Metrics]:
        """Takes the hospitals' answers to a question beside the rounds.

        Args:
            question: `FINAL`, `ALONE` or, by model, `CROSS_SITE`.
            answers: by hospital; None or absent where there was none.

        Returns:
            The answers that are metrics.
        """
        told: dict[str, Metrics] = {}
        missing = self.run.missing.setdefault(question, {})
        for hospital in self._study.hospitals:
            answer = answers.get(hospital)
            if isinstance(answer, Metrics):
                if self._fits(answer):
                    told[hospital] = answer
                else:
                    missing[hospital] = "wrong-metrics"
            else:
                missing[hospital] = answer.code if answer is not None else "no answer"
        plain = {name: metrics.model_dump() for name, metrics in told.items()}
        if question == FINAL:
            decision = self._selection.observe(
                self.rounds_done, _scores(told, self.settings.scored)
            )
            self.run.final = plain
            self._final_score = decision.score
            if decision.best:
                self._best_file = _model_file(self.rounds_done)
        elif question == ALONE:
            self.run.local = plain
        return told

    def _fits(self, answer: Metrics) -> bool:
        settings = self._study.settings
        return answer.fit(settings.scored, settings.update.max_cases)

    def local_model(self, answer: Update | UpdateRefused | Failure) -> Mapping[str, Tensor] | None:
        """The model a hospital trained from the last one, for the cross-site evaluation.

        Args:
            answer: its update of the last model; the same checks as in a round.

        Returns:
            None where there is none; the reason is then in the run's `missing`.
        """
        expected = Expected(
            self.rounds_done,
            self._model_sha256,
            self._schema,
            self._study.settings.update.max_cases,
            self._study.settings.update.max_change,
            self._study.settings.scored,
        )
        if isinstance(answer, Update):
            try:
                if answer.hospital not in self._study.hospitals:
                    raise UpdateRefused(answer.hospital, "not-asked")
                validate(answer, expected)
                return apply_change(self.model, answer.tensors)
            except UpdateRefused as refusal:
                answer = refusal
        self.run.missing.setdefault(CROSS_SITE, {})[answer.hospital] = answer.code
        return None

    def answer_cross_site(
        self, trained_at: str, answers: Mapping[str, Metrics | Failure | None]
    ) -> None:
        """Takes the scores of one hospital's model at every hospital."""
        told = self.answer(CROSS_SITE, answers)
        self._cross_site[trained_at] = {
            name: metrics.model_dump()["validation"] for name, metrics in told.items()
        }

    @property
    def to_leave_out(self) -> tuple[str, ...]:
        """Hospitals without each of which another model is trained."""
        probe = self.settings.probe
        hospitals = self._study.hospitals
        wanted = probe is not None and probe.leave_one_out and 1 < len(hospitals) <= probe.most
        return hospitals if wanted else ()

    def without(self, hospital: str) -> "Coordinator":
        """Leads the same study without a hospital, with a checkpoints and results of its own."""
        study = replace(
            self._study,
            run=f"{self._study.run} without {hospital}",
            quorum=self.quorum.without(hospital),
        )
        folder = Path("without") / hospital
        return Coordinator(
            study, results=self._results / folder, checkpoints=self._checkpoints.folder / folder
        )

    def answer_without(self, hospital: str, answer: Metrics | Failure | str | None) -> None:
        """Takes a hospital's score of the model that was trained without it.

        Args:
            hospital: that was left out.
            answer: its metrics, or what went wrong, as a code.
        """
        if isinstance(answer, Metrics) and self._fits(answer):
            self._without[hospital] = answer.model_dump()["validation"]
            return
        code = "wrong-metrics" if isinstance(answer, Metrics) else answer or "no answer"
        code = code.code if isinstance(code, Failure) else code
        self.run.missing.setdefault(WITHOUT, {})[hospital] = code

    def answer_confounding(self, answers: Mapping[str, Metrics | Failure | None]) -> None:
        """Takes what the hospitals tell the confounding probe."""
        probe, labels = self.settings.probe, self.settings.scored.classes
        assert probe is not None
        for name, told in self.answer(CONFOUNDING, answers).items():
            if told.confounding is not None and told.confounding.fits(labels, probe.dimensions):
                self._statements[name] = told.confounding
            else:
                self.run.missing[CONFOUNDING][name] = "wrong-metrics"

    def _confounding(self) -> dict[str, Any]:
        """What was found out about what the model learned."""
        told = run_probe(self._statements, self.settings.scored.classes)
        return {**told, "told": sorted(self._statements), "without": self._without}

    def finish(self, trouble: str = "") -> dict[str, Any]:
        """Writes what the run leaves, complete or not.

        Args:
            trouble: why the run was ended, where something ended it; one line.

        Returns:
            The content of `result.json`.
        """
        self.run.trouble = trouble or self.run.trouble
        reason = self.run.reason()
        records = [record.to_dict() for record in self.run.records]
        found = {"confounding": self._confounding()} if self.settings.probe and records else {}
        model_sha256 = self._write_model(found) if records else None
        result: dict[str, Any] = {
            "run": self.run.name,
            "job": self.run.job,
            "complete": not reason,
            "reason": reason,
            "notes": list(self._checkpoints.notes),
            "seed": self._study.settings.seed,
            "versions": _versions(),
            "hospitals": self._hospital_rows(),
            "rounds": self.rounds_done,
            "best_round": self._kept() if records else None,
            "model_sha256": model_sha256,
            "settings": self._dump_settings(),
            **found,
        }
        if self._study.settings.cross_site:
            result["cross_site"] = self._cross_site
        result["flagged"] = [asdict(one) for one in find_flagged(self.run.records)]
        final = {"metrics": self.run.final or {}, "score": self._final_score}
        result["final"] = final
        self._write_rounds()
        write_json(self._results / "result.json", result)
        write_text(self._results / "report.html", render_report(result, records, final=final))
        self._curves.finish(result, final)
        self._curves.close()
        return result

    def _write_rounds(self) -> None:
        lines = [json.dumps(record.to_dict(), allow_nan=False) for record in self.run.records]
        write_text(self._results / "rounds.jsonl", "".join(f"{line}\n" for line in lines))

    def _hospital_rows(self) -> list[dict[str, Any]]:
        shared = self.run.scores_of_model(self._kept())
        rows = []
        for name in self._study.hospitals:
            training = [record.cases[name] for record in self.run.records if name in record.cases]
            score = shared.get(name)
            alone = (self.run.local or {}).get(name)
            rows.append(
                {
                    "name": name,
                    "cases": {
                        "training": training[-1] if training else None,
                        "validation": score["patients"] if score else None,
                    },
                    "local": alone["validation"] if alone else None,
                    "federated": score,
                }
            )
        return rows

    def _kept(self) -> int:
        """The rounds behind the model that the run leaves."""
        if self._study.settings.selection.keep == "best":
            return self._selection.best_model
        return self.rounds_done

    def _write_model(self, found: Mapping[str, Any]) -> str:
        number, kept = self._kept(), self.final_model
        if self._study.settings.selection.keep == "best":
            kept = self._load(self._best_file, self.model)
        # Where the run started from is a path at the orchestrator, and nobody else's business.
        settings = self._study.settings.model_copy(update={"model": Model()})
        return write_bundle(
            self._results / "model",
            settings,
            kept,
            trained={
                "run": self.run.name,
                "job": self.run.job,
                "hospitals": list(self._study.hospitals),
                "round": number,
                **found,
            },
        )

    def _write_checkpoint(self, models: Mapping[str, Mapping[str, Tensor]]) -> None:
        self._checkpoints.write(
            Checkpoint(
                run=self.run.name,
                settings=self._dump_settings(),
                records=self.run.records,
                selection=self._selection.to_dict(),
                model=_model_file(self.rounds_done),
                model_sha256=self._model_sha256,
                best=self._best_file,
                start=self._start_file,
                more=self._more,
                averaged=self._averaged,
                stopped_early=self.run.stopped_early,
            ),
            {name: _writer(state) for name, state in models.items()},
        )

    def _dump_settings(self) -> dict[str, Any]:
        return self._study.settings.model_dump(by_alias=True, mode="json")


def _writer(state: Mapping[str, Tensor]) -> Any:
    return lambda path: save_file(dict(state), path)


def _model_file(number: int) -> str:
    return f"model-{number:06d}.safetensors"


def _scores(metrics: Mapping[str, Metrics], spec: ScoreSpec) -> dict[str, HospitalScore]:
    scores = {}
    for name, said in metrics.items():
        score = said.validation
        if score is None or score.patients is None:
            continue
        value = spec.headline(score.figures)
        if value is not None:
            scores[name] = HospitalScore(value, score.patients)
    return scores


def _versions() -> dict[str, str]:
    packages: Sequence[str] = ("consortium", "nvflare", "torch", "monai", "numpy")
    return {name: version(name) for name in packages} | {"python": platform.python_version()}
