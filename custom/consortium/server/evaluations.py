"""Evaluations after the rounds: their requests, their order and their results.

Every hospital scores the final model. If the job asks for them, the confounding probe, the
trainings without one hospital, the baseline and the cross-site evaluation follow. The caller
delivers the requests: FLARE's workflow and the in-process runner send the same ones.
Invariant: every hospital of the study is asked, and missing answers are recorded.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from consortium.confounding.probe_statistics import ProbeStatistics
from consortium.confounding.run_probe import run_probe
from consortium.core.errors import Failure, Incomplete
from consortium.protocol import requests
from consortium.protocol.metrics import Metrics
from consortium.protocol.update import Expected, Update, UpdateRefused, apply_change, validate
from consortium.server.run import TrainingRun, scores_of
from consortium.server.state import model_file

FINAL, BASELINE, CROSS_SITE = "the final scoring", "the baseline", "the cross-site evaluation"
CONFOUNDING, WITHOUT = "the confounding probe", "the training without one hospital"

Answer = Update | UpdateRefused | Metrics | Failure
"""For `requests.ANSWERED_BY_UPDATES` an update or why there is none, else metrics or a failure."""


class Ask(Protocol):
    """Sends a model with a request, and waits until every hospital has answered or cannot."""

    def __call__(
        self,
        request: str,
        model: Mapping[str, Tensor],
        targets: Sequence[str],
        take: Callable[[str, Any], object],
        **meta: int,
    ) -> None:
        """Sends one request.

        Args:
            request: one of `consortium.protocol.requests`.
            model: to send with it.
            targets: hospitals to ask.
            take: receives each hospital's name and `Answer` as it arrives, one at a time.
            meta: values to send with the model.

        Raises:
            Exception: the run is ending; no further request is sent.
        """


class Evaluations:
    """The evaluations of one run after its rounds.

    Args:
        run: whose models are evaluated.

    Attributes:
        cross_site: for each hospital's model, its score at each hospital.
        final_score: of the final model over all patients; None if unknown.
    """

    def __init__(self, run: TrainingRun):
        self._run = run
        self.cross_site: dict[str, dict[str, Any]] = {}
        self.final_score: float | None = None
        self._statistics: dict[str, ProbeStatistics] = {}
        self._without: dict[str, dict[str, Any] | None] = {}

    def ask_all(self, ask: Ask) -> None:
        """Sends all requests of the job's evaluations."""
        settings, run = self._run.settings, self._run
        final = run.checkpoints.final_model(run.state)
        self.record(FINAL, self._ask_metrics(ask, requests.VALIDATE, final))
        if settings.probe is not None:
            self.record_confounding(self._ask_metrics(ask, requests.CONFOUNDING, final))
        del final
        for hospital in self.to_leave_out:
            self._train_without(ask, hospital)
        if settings.baseline:
            start = run.checkpoints.start_model(run.state)
            rounds = run.state.rounds_done
            answers = self._ask_metrics(ask, requests.BASELINE, start, rounds=rounds)
            self.record(BASELINE, answers)
        if settings.cross_site:
            self._evaluate_across(ask)

    def _ask_metrics(
        self, ask: Ask, request: str, model: Mapping[str, Tensor], **meta: int
    ) -> dict[str, Metrics | Failure]:
        answers: dict[str, Metrics | Failure] = {}
        ask(request, model, self._run.state.study.hospitals, answers.__setitem__, **meta)
        return answers

    def _train_without(self, ask: Ask, hospital: str) -> None:
        """Trains another model without a hospital, and has it scored there."""
        other = self._run.without(hospital)
        try:
            while not other.state.is_done:
                number, _ = other.open_round()

                def take(name: str, answer: Any, run: TrainingRun = other) -> None:
                    run.submit(answer)

                ask(requests.WITHOUT, other.state.model, other.asked, take, round=number)
                other.close_round()
        except Incomplete as incomplete:
            self.record_without(hospital, incomplete.code)
            return
        answers: dict[str, Metrics | Failure] = {}
        final = other.checkpoints.final_model(other.state)
        ask(requests.VALIDATE, final, [hospital], answers.__setitem__)
        self.record_without(hospital, answers.get(hospital))

    def _evaluate_across(self, ask: Ask) -> None:
        """Has every hospital train the last model further, and all hospitals score each result."""
        state = self._run.state
        trained: dict[str, Mapping[str, Tensor]] = {}

        def take(name: str, answer: Any) -> None:
            model = self.local_model(answer)
            if model is not None:
                trained[name] = model

        ask(
            requests.LOCAL_MODEL,
            state.model,
            state.study.hospitals,
            take,
            round=state.rounds_done,
        )
        for hospital in sorted(trained):
            answers = self._ask_metrics(ask, requests.VALIDATE, trained.pop(hospital))
            self.record_cross_site(hospital, answers)

    def record(
        self, evaluation: str, answers: Mapping[str, Metrics | Failure | None]
    ) -> dict[str, Metrics]:
        """Records the hospitals' answers to one evaluation.

        Args:
            evaluation: `FINAL`, `CONFOUNDING`, `BASELINE` or, for each model, `CROSS_SITE`.
            answers: by hospital; None or absent if there was none.

        Returns:
            The answers that are metrics of the job.
        """
        state = self._run.state
        valid: dict[str, Metrics] = {}
        missing = state.run.missing.setdefault(evaluation, {})
        for hospital in state.study.hospitals:
            answer = answers.get(hospital)
            if isinstance(answer, Metrics):
                if self._fits(answer):
                    valid[hospital] = answer
                else:
                    missing[hospital] = "wrong-metrics"
            else:
                missing[hospital] = answer.code if answer is not None else "no answer"
        plain = {name: metrics.model_dump() for name, metrics in valid.items()}
        if evaluation == FINAL:
            decision = state.selection.observe(
                state.rounds_done,
                scores_of(valid, state.run.last_cases(), state.settings),
            )
            state.run.final = plain
            self.final_score = decision.score
            if decision.best:
                state.best_file = model_file(state.rounds_done)
        elif evaluation == BASELINE:
            state.run.local = plain
        return valid

    def _fits(self, answer: Metrics) -> bool:
        settings = self._run.settings
        return answer.fits(settings.scored, settings.update.max_cases)

    def local_model(self, answer: Update | UpdateRefused | Failure) -> Mapping[str, Tensor] | None:
        """Returns the model that a hospital trained from the last one, for `CROSS_SITE`.

        Args:
            answer: its update of the last model; it is checked as in a round.

        Returns:
            The model, or None if there is none; the reason is then in the run's `missing`.
        """
        state = self._run.state
        if isinstance(answer, Update):
            try:
                if answer.hospital not in state.study.hospitals:
                    raise UpdateRefused(answer.hospital, "not-asked")
                validate(answer, self._expected())
                return apply_change(state.model, answer.tensors)
            except UpdateRefused as refusal:
                answer = refusal
        state.run.missing.setdefault(CROSS_SITE, {})[answer.hospital] = answer.code
        return None

    def _expected(self) -> Expected:
        state = self._run.state
        return Expected(
            state.rounds_done,
            state.model_sha256,
            state.schema,
            state.settings.update.max_cases,
            state.settings.update.max_change,
            state.settings.scored,
        )

    def record_cross_site(
        self, trained_at: str, answers: Mapping[str, Metrics | Failure | None]
    ) -> None:
        """Records the scores of one hospital's model at every hospital."""
        valid = self.record(CROSS_SITE, answers)
        self.cross_site[trained_at] = {
            name: metrics.model_dump()["validation"] for name, metrics in valid.items()
        }

    @property
    def to_leave_out(self) -> tuple[str, ...]:
        """Hospitals for each of which another model is trained without it."""
        probe = self._run.settings.probe
        hospitals = self._run.state.study.hospitals
        wanted = probe is not None and probe.leave_one_out and 1 < len(hospitals) <= probe.most
        return hospitals if wanted else ()

    def record_without(self, hospital: str, answer: Metrics | Failure | str | None) -> None:
        """Records a hospital's score of the model that was trained without it.

        Args:
            hospital: that was left out.
            answer: its metrics, or the code of what went wrong.
        """
        if isinstance(answer, Metrics) and self._fits(answer):
            self._without[hospital] = answer.model_dump()["validation"]
            return
        code = "wrong-metrics" if isinstance(answer, Metrics) else answer or "no answer"
        code = code.code if isinstance(code, Failure) else code
        self._run.state.run.missing.setdefault(WITHOUT, {})[hospital] = code

    def record_confounding(self, answers: Mapping[str, Metrics | Failure | None]) -> None:
        """Records the hospitals' statistics for the confounding probe."""
        probe, labels = self._run.settings.probe, self._run.settings.scored.classes
        assert probe is not None
        for name, metrics in self.record(CONFOUNDING, answers).items():
            statistics = metrics.confounding
            if statistics is not None and statistics.fits(labels, probe.dimensions):
                self._statistics[name] = statistics
            else:
                self._run.state.run.missing[CONFOUNDING][name] = "wrong-metrics"

    def describe_confounding(self) -> dict[str, Any]:
        """Describes whether the model learned the disease or the hospital, as JSON types."""
        result = run_probe(self._statistics, self._run.settings.scored.classes)
        return {**result, "reported": sorted(self._statistics), "without": self._without}
