"""What a hospital does in a round, from its `dataset.json` to the update it sends.

Read top to bottom: `Hospital` opens the folder, `train` answers a round, `_fit` is the loop.
Nothing here knows of FLARE. What always holds: the update is a function of the settings, the
folder's content, the base and (seed, hospital, round); and what is said about patients is withheld
where it would be about fewer than the hospital lets out.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from monai.losses import DiceLoss
from safetensors.torch import save_file
from torch import Tensor

from consortium.aggregation.model_average import ModelAverage, first_averaged
from consortium.data.checks import check_folder
from consortium.data.cohort import Cohort
from consortium.data.datalist import read_datalist, split_cases
from consortium.errors import UsageError
from consortium.files import replace_file
from consortium.metrics import Metrics, Score
from consortium.seeds import derive_seed
from consortium.settings import Settings
from consortium.training.inference import PreparedCase, load_case, predict_case
from consortium.training.kept import KeptTensors
from consortium.training.networks import build_network
from consortium.training.scores import group_score, score_case
from consortium.training.site import Site
from consortium.update import (
    Make,
    Rule,
    State,
    Update,
    difference,
    digest,
    layout_of,
    make_buffers,
)


class Aborted(Exception):
    """The work was told to stop; not an error."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the local work is: `stage` is `check`, `train`, `validate` or `alone`."""

    stage: str
    round: int
    rounds: int
    step: int
    steps: int


class Hospital:
    """One hospital's local compute.

    Args:
        site: the hospital's own choices.
        settings: the job's.
        device: where to train.
        report: is told of progress; raises `Aborted` to stop the work within one batch.

    Raises:
        UsageError: the folder is not fit for the job; the code is that of the first finding.
    """

    def __init__(
        self,
        site: Site,
        settings: Settings,
        *,
        device: torch.device,
        report: Callable[[Progress], None] = lambda progress: None,
        make: Make = make_buffers,
    ):
        self._site, self._settings, self._device = site, settings, device
        self._report, self._make = report, make
        self._make_deterministic()
        for finding in check_folder(site.data, settings, progress=self._tell_check):
            if finding.severity == "error":
                raise UsageError(
                    finding.code, finding.detail, finding.file, "see consortium check-data"
                )
        self._split = split_cases(read_datalist(site.data), settings.data.validation_fraction)
        self._cohort: Cohort | None = None
        self._validation: list[tuple[str, PreparedCase]] | None = None
        self._network = build_network(settings).to(device)
        # Convolutions are faster with the channels last.
        two = settings.data.spatial_dims == 2
        self._format = torch.channels_last if two else torch.channels_last_3d
        self._network.to(memory_format=self._format)  # type: ignore[call-overload]
        self._layout = layout_of(self._network, local_buffers=settings.update.buffers == "local")
        self._kept = KeptTensors(site.state)
        self._local = [name for name, entry in self._layout.items() if entry.rule is Rule.LOCAL]

    @property
    def own_model(self) -> Path:
        """Where the model that the hospital trained alone lies."""
        return self._site.state / "alone.safetensors"

    def train(self, base: State, round_number: int, *, keep: bool = True) -> Update:
        """Answers a round: scores the base, trains from it, and returns the change.

        Args:
            base: the model handed out, with every tensor of the network.
            round_number: from 0.
            keep: whether what stays local counts for the rounds that follow.
        """
        started = time.monotonic()
        self._load(base, round_number)
        validation = self._score(round_number)
        loss, steps = self._fit(round_number, "train", self._site.name, round_number)
        local = self._network.state_dict()
        if keep:
            self._keep(local, round_number)
        return Update(
            hospital=self._site.name,
            round=round_number,
            base_sha256=digest(base),
            cases=len(self._split.training),
            tensors=difference(local, base, self._layout, self._make),
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

    def train_alone(self, start: State, rounds: int) -> Metrics:
        """Trains a model by itself with as many steps, and scores the one it would have kept.

        The same rule chooses it as chooses the shared model: the average of the last rounds, the
        last round, or the best one by the hospital's own validation patients. The model stays at
        the hospital, at `own_model`.

        Args:
            start: the model that the shared one started from too.
            rounds: that the shared model was trained for.
        """
        started = time.monotonic()
        self._network.load_state_dict(start)
        keep, average = self._settings.selection.keep, ModelAverage()
        best: tuple[float, Score | None] = (-1.0, None)
        for round_number in range(rounds):
            self._fit(round_number, "alone", self._site.name, "alone", round_number)
            last = round_number == rounds - 1
            if keep == "average" and round_number >= first_averaged(
                rounds, self._settings.selection.share
            ):
                average.add(self._network.state_dict())
            if last and average.count:
                self._network.load_state_dict(average.mean(start))
            if keep == "best" or last:
                value, score = self._measure(round_number, "alone")
                if value >= best[0] or keep != "best":
                    best = (value, score)
                    self._save(self.own_model.name, self._network.state_dict())
        return Metrics(seconds=time.monotonic() - started, validation=best[1])

    def _fit(self, round_number: int, stage: str, *randomness: str | int) -> tuple[float, int]:
        """Takes the round's optimiser steps on the network in place.

        Returns:
            The mean loss, and how many steps were taken.
        """
        plan, planned = self._settings.training, self._steps()
        steps = planned
        until = time.monotonic() + 60 * plan.local_minutes if plan.local_minutes else None
        seed = derive_seed(self._settings.seed, *randomness)
        torch.manual_seed(seed)
        batches = self._training_cohort().batches(plan.batch, seed)
        dice_loss = DiceLoss(sigmoid=True, batch=True)
        optimiser = torch.optim.AdamW(
            self._network.parameters(),
            lr=plan.learning_rate,
            weight_decay=plan.weight_decay,
            fused=True,  # a third of the time, which small networks feel
        )
        total = torch.zeros((), device=self._device)
        self._network.train()
        for step in range(steps):
            if until is not None and step and time.monotonic() >= until:
                steps = step
                break
            self._tell(stage, round_number, step, steps)
            images, masks = (part.to(self._device, non_blocking=True) for part in next(batches))
            for group in optimiser.param_groups:
                group["lr"] = self._learning_rate(round_number * planned + step, planned)
            with self._precision():
                logits = self._network(images.contiguous(memory_format=self._format))
            logits = logits.float()
            loss = dice_loss(logits, masks)
            loss = loss + torch.nn.functional.binary_cross_entropy_with_logits(logits, masks)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._network.parameters(), plan.clip)
            optimiser.step()
            total += loss.detach()
        self._tell(stage, round_number, steps, steps)
        return float(total) / steps, steps

    def _steps(self) -> int:
        """How many optimiser steps a round has, where no time ends it before."""
        plan = self._settings.training
        if plan.local_epochs is None:
            return plan.local_steps
        return max(1, round(plan.local_epochs * self._training_cohort().samples / plan.batch))

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
        """Mean Dice, for the hospital's own use, and what of it may leave."""
        cases = self._validation_cases()
        if not cases:
            return 0.0, None
        names = list(self._settings.data.labels)
        found: dict[str, list[dict[str, float]]] = {}
        for done, (patient, case) in enumerate(cases):
            self._tell(stage, round_number, done, len(cases))
            predicted = predict_case(
                self._network, case, self._settings, self._device, self._tell_batch
            )
            assert case.label_original is not None
            scores = score_case(
                predicted, case.label_original, case.spacing_original, names, surface=False
            )
            found.setdefault(patient, []).append(scores["dice"])
        return group_score(list(found.values()), self._site.smallest_group)

    def _training_cohort(self) -> Cohort:
        if self._cohort is None:
            data = self._settings.data
            self._cohort = Cohort(self._split.training, data, progress=self._tell_check)
        return self._cohort

    def _validation_cases(self) -> list[tuple[str, PreparedCase]]:
        if self._validation is None:
            loaded: list[tuple[str, PreparedCase]] = []
            for case in self._split.validation:
                self._tell_check(len(loaded), len(self._split.validation))
                prepared = load_case(self._settings, case.image, case.label, case.values)
                loaded.append((case.patient, prepared))
            self._validation = loaded
        return self._validation

    def _enough_to_train_on(self) -> bool:
        patients = len({case.patient for case in self._split.training})
        return patients >= self._site.smallest_group

    def with_own_buffers(self, model: State, before_round: int | None = None) -> dict[str, Tensor]:
        """A model with what the hospital keeps local, from its last round before the one given."""
        before_round = self._settings.rounds if before_round is None else before_round
        return {**model, **(self._kept.load(before_round) if self._local else {})}

    def _load(self, model: State, before_round: int) -> None:
        self._network.load_state_dict(self.with_own_buffers(model, before_round))

    def _keep(self, local: State, round_number: int) -> None:
        if self._local:
            self._kept.save(round_number, {tensor: local[tensor] for tensor in self._local})

    def _save(self, name: str, state: State) -> None:
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
        replace_file(self._site.state / name, lambda beside: save_file(tensors, beside))

    def _precision(self) -> AbstractContextManager[object]:
        """Mixed precision in bfloat16, which needs no loss scaling, on a GPU that has it."""
        wanted = self._settings.training.mixed_precision and self._device.type == "cuda"
        if wanted and torch.cuda.is_bf16_supported():
            return torch.autocast("cuda", dtype=torch.bfloat16)
        return nullcontext()

    def _make_deterministic(self) -> None:
        on_cpu = self._device.type == "cpu"
        # Some 3-D kernels have no deterministic form on a GPU; the same bytes are promised on CPUs.
        torch.use_deterministic_algorithms(True, warn_only=not on_cpu)
        # Filling fresh memory finds reads of what was never written, and costs 5 % of a step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = False

    def _tell(self, stage: str, round_number: int, step: int, steps: int) -> None:
        self._told = Progress(stage, round_number, self._settings.rounds, step, steps)
        self._report(self._told)

    def _tell_batch(self) -> None:
        """Nothing new, but a chance to stop the work."""
        self._report(self._told)

    def _tell_check(self, done: int, cases: int) -> None:
        self._tell("check", 0, done, cases)
