"""A hospital's work in a round, from its folder to the update it sends.

Read top to bottom: `LocalTrainer` opens the folder, `train` answers a round, `_fit` is the loop.
The differences between tasks (batches, loss, score) are in `consortium.tasks`. Nothing here depends
on FLARE. Invariants: the update is a function of the settings, the folder's content, the base,
(seed, hospital, round) and the hospital's secret; an update of too few patients does not leave;
metrics over fewer patients than the hospital's smallest group are withheld.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from consortium.client.fitness import require_fit
from consortium.client.floors import check_round, require_limits, require_patients
from consortium.client.local_state import LocalStateStore
from consortium.client.questions import Questions
from consortium.client.secret import read_secret
from consortium.core.errors import Refused
from consortium.core.files import replace_file
from consortium.core.seeds import derive_secret_seed
from consortium.core.site_policy import Site
from consortium.models.averaging import ModelAverage
from consortium.models.networks import build_network
from consortium.orchestration.model_selection import first_averaged
from consortium.protocol.buffers import BufferFactory, make_buffers
from consortium.protocol.codec import digest
from consortium.protocol.metrics import TOO_MANY_QUESTIONS, Metrics, Score
from consortium.protocol.schema import Reduction, State, schema_of
from consortium.protocol.update import Update, difference
from consortium.settings.base import Settings, Training
from consortium.tasks.measurement import Measured
from consortium.tasks.registry import task_of

_ATTEMPTS, _STEPS = 100, 50_000  # for an order of batches in which no patient has too much


class Aborted(Exception):
    """The caller stopped the work; not an error."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of the local work: `stage` is `check`, `train`, `validate`, `again` or `local`."""

    stage: str
    round: int
    rounds: int
    step: int
    steps: int


class LocalTrainer:
    """Trains and evaluates at one hospital.

    Args:
        site: the hospital's own choices.
        settings: the job's.
        device: where to train.
        report: receives the progress; raises `Aborted` to stop the work within one batch.
        make: allocates the buffers of an update.

    Raises:
        UsageError: `data-unfit` or `missing-folder`; see `consortium.client.fitness`.
        Refused: `outside-limits`, `too-few-patients`, `other-split`, `statement-too-close` or
            `too-few-to-average`.
    """

    def __init__(
        self,
        site: Site,
        settings: Settings,
        *,
        device: torch.device,
        report: Callable[[Progress], None] = lambda progress: None,
        make: BufferFactory = make_buffers,
    ):
        self._site, self._settings, self._device = site, settings, device
        self._report, self._make = report, make
        require_limits(settings, site.privacy)
        self._make_deterministic()
        require_fit(site, settings, self._report_check)
        self._work = task_of(settings).open(site, settings, device, self._report_check)
        require_patients(self._work.patients, site.privacy)
        private = site.privacy.randomness == "secret"
        self._secret = read_secret(site.home) if private else str(settings.seed).encode()
        self._network = build_network(settings).to(device)
        self._network.to(memory_format=self._work.format)  # type: ignore[call-overload]
        self._schema = schema_of(self._network, local_buffers=settings.update.buffers == "local")
        self._local_state = LocalStateStore(site.state)
        self._questions = Questions(site, settings)
        self._local_names = [
            name for name, spec in self._schema.items() if spec.reduction is Reduction.LOCAL
        ]

    @property
    def own_model(self) -> Path:
        """File of the hospital's local model."""
        return self._site.state / "local.safetensors"

    def train(self, base: State, round_number: int, *, keep: bool = True) -> Update:
        """Answers a round: scores the base, trains from it, and returns the update.

        Args:
            base: the model that the orchestrator sent, with every tensor of the network.
            round_number: from 0.
            keep: whether this is a round of the run itself: its base is scored, and the local
                tensors are saved for the rounds that follow.

        Raises:
            Refused: `too-few-per-round` or `too-much-of-one-patient`.
        """
        started = time.monotonic()
        with ThreadPoolExecutor(1) as executor:  # hashing a large model takes a while
            base_sha256 = executor.submit(digest, base)
            self._load(base, round_number)
            measured = self._measure(round_number, "validate") if keep else None
            self._load_statistics(self._work.statistics(base, round_number))
            stage = "train" if keep else "again"
            loss, steps = self._fit(round_number, stage, self._site.name, round_number)
            local = self._network.state_dict()
            if keep:
                self._save_local(local, round_number)
            return Update(
                hospital=self._site.name,
                round=round_number,
                base_sha256=base_sha256.result(),
                cases=self._work.cases,
                tensors=difference(local, base, self._schema, self._make),
                metrics=Metrics(
                    loss=loss if self._enough_to_train_on() else None,
                    steps=steps,
                    seconds=time.monotonic() - started,
                    validation=measured
                    and self._report_or_withhold(base_sha256.result(), round_number, measured),
                ),
            )

    def validate(self, model: State) -> Metrics:
        """Scores a model on the hospital's own validation patients.

        Raises:
            Refused: `too-many-questions`; see `consortium.client.questions`.
        """
        started, rounds = time.monotonic(), self._settings.rounds
        self._load(model, rounds)
        measured = self._measure(rounds, "validate")
        score = self._questions.score(self._question(digest(model), rounds), measured)
        return Metrics(seconds=time.monotonic() - started, validation=score)

    def probe_statistics(self, model: State) -> Metrics:
        """Computes a model's statistics for the confounding probe, for one model in a run.

        Raises:
            Refused: `too-many-questions`; see `consortium.client.questions`.
        """
        started = time.monotonic()
        self._load(model, self._settings.rounds)
        statistics = self._work.probe_statistics(self._network)
        metrics = Metrics(seconds=time.monotonic() - started, confounding=statistics)
        return self._questions.probe(digest(model), metrics)

    def train_local(self, start: State, rounds: int) -> Metrics:
        """Trains the local model with as many steps as the federated one, and scores it.

        The same rule selects both: the average of the last rounds, the last round, or the best one
        by the hospital's own validation patients. The model stays at the hospital, at `own_model`.

        Args:
            start: the model that the federated one started from too.
            rounds: number of rounds that the federated model was trained for.
        """
        started = time.monotonic()
        self._network.load_state_dict(start)
        self._load_statistics(self._work.own_statistics())
        self._load_statistics(self._work.statistics(start, None))
        keep, average = self._settings.selection.keep, ModelAverage()
        best = Measured(-1.0, None)
        for round_number in range(rounds):
            self._fit(round_number, "local", self._site.name, "local", round_number)
            last = round_number == rounds - 1
            if keep == "average" and round_number >= first_averaged(
                rounds, self._settings.selection.share
            ):
                average.add(self._network.state_dict())
            if last and average.count:
                self._network.load_state_dict(average.mean(start))
            if keep == "best" or last:
                measured = self._measure(round_number, "local")
                if measured.value >= best.value or keep != "best":
                    best = measured
                    self._save(self.own_model.name, self._network.state_dict())
        validation = self._report_or_withhold(f"local {digest(start)}", rounds, best)
        return Metrics(seconds=time.monotonic() - started, validation=validation)

    def _fit(self, round_number: int, stage: str, *randomness: str | int) -> tuple[float, int]:
        """Takes the round's optimiser steps, in place.

        Returns:
            The mean loss and the number of steps taken.

        Raises:
            Refused: `too-few-per-round` or `too-much-of-one-patient`: before the first step, or
                after the last one if the time decides how many there are.
        """
        plan, planned = self._settings.training, self._steps()
        steps = planned
        deadline = time.monotonic() + 60 * plan.local_minutes if plan.local_minutes else None
        rates: list[float] = []
        seed = self._draw_seed(round_number, planned, *randomness)
        torch.manual_seed(seed >> 193)  # torch takes 63 bits
        batches = self._work.batches(plan.batch, seed)
        optimiser = _build_optimiser(self._network.parameters(), plan)
        total = torch.zeros((), device=self._device)
        self._network.train(self._work.moving_statistics)
        for step in range(steps):
            if deadline is not None and step and time.monotonic() >= deadline:
                steps = step
                break
            self._report_progress(stage, round_number, step, steps)
            inputs, targets = (part.to(self._device, non_blocking=True) for part in next(batches))
            rates.append(self._learning_rate(round_number * planned + step, planned))
            for group in optimiser.param_groups:
                group["lr"] = rates[-1]
            with self._precision():
                logits = self._network(inputs.contiguous(memory_format=self._work.format))
            loss = self._work.loss(logits.float(), targets)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self._network.parameters(), plan.clip)
            optimiser.step()
            total += loss.detach()
        if deadline is not None:
            refusal = self._check_order(seed, rates)
            if refusal is not None:
                raise refusal
        self._report_progress(stage, round_number, steps, steps)
        return float(total) / steps, steps

    def _draw_seed(self, round_number: int, planned: int, *randomness: str | int) -> int:
        """Draws the seed of a round; if its steps are known, one whose order is not refused.

        Args:
            round_number: from 0.
            planned: number of steps that no time limit ends earlier.
            randomness: what distinguishes the round.

        Raises:
            Refused: see `_fit`.
        """
        settings = self._settings
        parts = [settings.seed, settings.digest, *randomness]
        if settings.training.local_minutes is not None:
            # Repeated, such a round ends after another number of steps. The difference between the
            # two would be the last step's patients, unless the batches differ too.
            private = self._site.privacy.randomness == "secret"
            once = [secrets.token_hex(16)] if private else []
            return derive_secret_seed(self._secret, *parts, *once)
        first = round_number * planned
        rates = [self._learning_rate(first + step, planned) for step in range(planned)]
        # By chance one patient has too much of a few steps, but not of many.
        for attempt in range(max(1, min(_ATTEMPTS, _STEPS // planned))):
            seed = derive_secret_seed(self._secret, *parts, attempt)
            refusal = self._check_order(seed, rates)
            if refusal is None:
                return seed
        assert refusal is not None
        raise refusal

    def _check_order(self, seed: int, rates: Sequence[float]) -> Refused | None:
        if self._site.privacy.smallest_training <= 1:
            return None
        orders = self._work.patients_of_batches(self._settings.training.batch, seed)
        return check_round(list(islice(orders, len(rates))), rates, self._site.privacy)

    def _steps(self) -> int:
        """Returns the number of optimiser steps of a round that no time limit ends earlier."""
        plan = self._settings.training
        if plan.local_epochs is None:
            return plan.local_steps
        return max(1, round(plan.local_epochs * self._work.samples / plan.batch))

    def _learning_rate(self, step: int, planned: int) -> float:
        """Cosine over the whole run (Loshchilov and Hutter, ICLR 2017, eq. 5, without restarts)."""
        plan = self._settings.training
        steps = max(1, self._settings.rounds * planned - 1)
        step = min(step, steps)
        cosine = (1 + torch.cos(torch.tensor(torch.pi * step / steps)).item()) / 2
        share = plan.final_learning_rate + (1 - plan.final_learning_rate) * cosine
        return plan.learning_rate * share

    def _report_or_withhold(
        self, model: str, round_number: int, measured: Measured
    ) -> Score | None:
        """Returns the score to report, withheld after too many questions; the work goes on."""
        try:
            return self._questions.score(self._question(model, round_number), measured)
        except Refused:
            return Score(withheld=TOO_MANY_QUESTIONS)

    def _question(self, model: str, round_number: int) -> str:
        """Identifies a model that is scored with the tensors that the hospital keeps."""
        return f"{model} {round_number}" if self._local_names else model

    def _measure(self, round_number: int, stage: str) -> Measured:
        """Scores the network as it is."""
        return self._work.measure(
            self._network,
            lambda done, cases: self._report_progress(stage, round_number, done, cases),
            self._report_batch,
        )

    def _enough_to_train_on(self) -> bool:
        return self._work.patients >= self._site.smallest_group

    def with_own_buffers(self, model: State, before_round: int | None = None) -> dict[str, Tensor]:
        """Returns a model with the local tensors of the hospital's last round before this one."""
        before_round = self._settings.rounds if before_round is None else before_round
        local = self._local_state.load(before_round) if self._local_names else {}
        return {**model, **local, **self._work.own_statistics()}

    def _load(self, model: State, before_round: int) -> None:
        self._network.load_state_dict(self.with_own_buffers(model, before_round))

    def _load_statistics(self, statistics: State) -> None:
        self._network.load_state_dict({**self._network.state_dict(), **statistics})

    def _save_local(self, state: State, round_number: int) -> None:
        if self._local_names:
            self._local_state.save(round_number, {name: state[name] for name in self._local_names})

    def _save(self, name: str, state: State) -> None:
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
        replace_file(self._site.state / name, lambda partial_path: save_file(tensors, partial_path))

    def _precision(self) -> AbstractContextManager[object]:
        """Returns mixed precision in bfloat16, which needs no loss scaling, if the GPU has it."""
        wanted = self._settings.training.mixed_precision and self._device.type == "cuda"
        if wanted and torch.cuda.is_bf16_supported():
            return torch.autocast("cuda", dtype=torch.bfloat16)
        return nullcontext()

    def _make_deterministic(self) -> None:
        on_cpu = self._device.type == "cpu"
        # Some 3-D kernels have no deterministic form on a GPU; only CPUs promise the same bytes.
        torch.use_deterministic_algorithms(True, warn_only=not on_cpu)
        # Filling fresh memory exposes reads of uninitialised values, and costs 5 % of a step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = False

    def _report_progress(self, stage: str, round_number: int, step: int, steps: int) -> None:
        self._progress = Progress(stage, round_number, self._settings.rounds, step, steps)
        self._report(self._progress)

    def _report_batch(self) -> None:
        """Repeats the last report, which is a chance to stop the work."""
        self._report(self._progress)

    def _report_check(self, done: int, cases: int) -> None:
        self._report_progress("check", 0, done, cases)


def _build_optimiser(parameters: Iterable[Tensor], plan: Training) -> torch.optim.Optimizer:
    """Builds a fresh optimiser."""
    if plan.optimiser == "sgd":
        return torch.optim.SGD(parameters, lr=plan.learning_rate, weight_decay=plan.weight_decay)
    return torch.optim.AdamW(
        parameters,
        lr=plan.learning_rate,
        weight_decay=plan.weight_decay,
        fused=True,  # a third of the time, which matters for small networks
    )
