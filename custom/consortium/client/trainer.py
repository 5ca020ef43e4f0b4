"""A hospital's work in a round, from its folder to the update it sends.

Read top to bottom: `LocalTrainer` opens the folder, `train` answers a round, `_fit` is the loop.
The differences between tasks (batches, loss, score) are in `consortium.tasks`. Nothing here depends
on FLARE. Invariants: the update is a function of the settings, the folder's content, the base and
(seed, hospital, round); metrics over fewer patients than the hospital's smallest group are
withheld.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from consortium.client.local_state import LocalStateStore
from consortium.client.optimisers import build_optimiser
from consortium.core.errors import UsageError
from consortium.core.files import replace_file
from consortium.core.seeds import derive_seed
from consortium.core.site_policy import Site
from consortium.models.averaging import ModelAverage
from consortium.models.networks import build_network
from consortium.orchestration.model_selection import first_averaged
from consortium.protocol.buffers import BufferFactory, make_buffers
from consortium.protocol.codec import digest
from consortium.protocol.metrics import Metrics, Score
from consortium.protocol.schema import Reduction, State, schema_of
from consortium.protocol.update import Update, difference
from consortium.settings.base import Settings
from consortium.tasks.folders import check_folder
from consortium.tasks.registry import task_of


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
        UsageError: the folder does not pass the job's checks; the code is the first error's.
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
        self._make_deterministic()
        for finding in check_folder(site.data, settings, self._report_check):
            if finding.severity == "error":
                raise UsageError(
                    finding.code, finding.detail, finding.file, "see consortium check-data"
                )
        self._work = task_of(settings).open(site, settings, device, self._report_check)
        self._network = build_network(settings).to(device)
        self._network.to(memory_format=self._work.format)  # type: ignore[call-overload]
        self._schema = schema_of(self._network, local_buffers=settings.update.buffers == "local")
        self._local_state = LocalStateStore(site.state)
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
            keep: whether to save the local tensors for the rounds that follow.
        """
        started = time.monotonic()
        with ThreadPoolExecutor(1) as executor:  # hashing a large model takes a while
            base_sha256 = executor.submit(digest, base)
            self._load(base, round_number)
            validation = self._score(round_number)
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
                    validation=validation,
                ),
            )

    def validate(self, model: State) -> Metrics:
        """Scores a model on the hospital's own validation patients."""
        started = time.monotonic()
        self._load(model, self._settings.rounds)
        score = self._score(self._settings.rounds)
        return Metrics(seconds=time.monotonic() - started, validation=score)

    def probe_statistics(self, model: State) -> Metrics:
        """Computes a model's statistics for the confounding probe; asked once a run."""
        started = time.monotonic()
        self._load(model, self._settings.rounds)
        statistics = self._work.probe_statistics(self._network)
        return Metrics(seconds=time.monotonic() - started, confounding=statistics)

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
        best: tuple[float, Score | None] = (-1.0, None)
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
                value, score = self._measure(round_number, "local")
                if value >= best[0] or keep != "best":
                    best = (value, score)
                    self._save(self.own_model.name, self._network.state_dict())
        return Metrics(seconds=time.monotonic() - started, validation=best[1])

    def _fit(self, round_number: int, stage: str, *randomness: str | int) -> tuple[float, int]:
        """Takes the round's optimiser steps, in place.

        Returns:
            The mean loss and the number of steps taken.
        """
        plan, planned = self._settings.training, self._steps()
        steps = planned
        deadline = time.monotonic() + 60 * plan.local_minutes if plan.local_minutes else None
        seed = derive_seed(self._settings.seed, *randomness)
        torch.manual_seed(seed)
        batches = self._work.batches(plan.batch, seed)
        optimiser = build_optimiser(self._network.parameters(), plan)
        total = torch.zeros((), device=self._device)
        self._network.train(self._work.moving_statistics)
        for step in range(steps):
            if deadline is not None and step and time.monotonic() >= deadline:
                steps = step
                break
            self._report_progress(stage, round_number, step, steps)
            inputs, targets = (part.to(self._device, non_blocking=True) for part in next(batches))
            optimiser.learning_rate = self._learning_rate(round_number * planned + step, planned)
            with self._precision():
                logits = self._network(inputs.contiguous(memory_format=self._work.format))
            loss = self._work.loss(logits.float(), targets)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self._network.parameters(), plan.clip)
            optimiser.step()
            total += loss.detach()
        self._report_progress(stage, round_number, steps, steps)
        return float(total) / steps, steps

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

    def _score(self, round_number: int) -> Score | None:
        return self._measure(round_number, "validate")[1]

    def _measure(self, round_number: int, stage: str) -> tuple[float, Score | None]:
        """Returns the score for the hospital's own use, and the part of it that may leave."""
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
        # As `torch.use_deterministic_algorithms`, which would import torch's compiler.
        torch.set_deterministic_debug_mode("error" if on_cpu else "warn")
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
