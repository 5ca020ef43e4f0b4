"""Measures what the Executor adds to a bare MONAI loop with the same transforms and threads.

The bare loop is what a researcher would write with MONAI alone: volumes cached and cut into slices,
the same augmentation, network, loss, optimiser and clipping, no worker processes. It does nothing
else: no seeds, no progress, no learning rate schedule, no deterministic algorithms. Against it,
`HospitalExecutor.execute` answers the task `train` with a real Shareable, a fake FLARE engine and
its own trainer process, for the same number of steps. FLARE's transport is not included; the
benchmark `round` measures it.

Invariants: the two take turns and alternate who goes first, and every figure is a median over such
pairs. The headline counts everything that the Executor does in a round, spread over the round's
steps, except the scoring of the received model. The bare loop has no scoring; its time grows with
the validation patients, not with the steps, and has its own row.

"Added once a round" is the Executor's work around the steps: it opens the Shareable, loads the
model, builds the optimiser, computes the digest and the difference, packs them, and writes the
progress file.

A step takes about 10 ms: batches of 4 slices of 32 x 32 voxels and a U-Net of three levels, which
is less than a tenth of the work of the job's own step.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from monai.data import CacheDataset, DataLoader, Dataset
from monai.losses import DiceLoss
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.signal import Signal
from nvflare.apis.workspace import Workspace
from scripts.benchmarks.report import LEAST, Row, make_row

from consortium.client.trainer import LocalTrainer
from consortium.core.errors import EnvironmentProblem
from consortium.core.files import write_json
from consortium.core.json_files import read_json_object
from consortium.core.site_policy import simulated_privacy
from consortium.flare.client.executor import HospitalExecutor
from consortium.flare.client.site import SiteData
from consortium.flare.server.answers import answer_from_shareable, model_to_shareable
from consortium.models.networks import build_network
from consortium.protocol.codec import digest
from consortium.protocol.pipeline import Pipeline
from consortium.protocol.requests import TRAIN
from consortium.protocol.schema import State
from consortium.protocol.update import Update
from consortium.settings.base import Settings, override
from consortium.study.job_folder import SETTINGS, prepare_job
from consortium.synthetic.dataset import generate
from consortium.synthetic.hospitals import HOSPITALS
from consortium.tasks.registry import parse_settings
from consortium.tasks.segmentation.datalist import read_datalist, split_cases
from consortium.tasks.segmentation.transforms import build_augmentation, build_preprocessing

JOB = Path(__file__).parents[2] / "jobs" / "tumor_segmentation"
TARGET = 2.0
"""Maximum added time of a step in milliseconds."""

_SITE, _JOB_ID = "north", "benchmark"
_TIMES = "times.json"
_SIZE = 32
_CHANGES = [f"data.size=[{_SIZE},{_SIZE}]", "network.features=[8,16,32]", "training.batch=4"]


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts of one `execute`, in seconds."""

    total: float
    scoring: float
    steps: float


def measure(quick: bool) -> list[Row]:
    """Runs the pairs.

    Args:
        quick: two pairs of two steps on few patients.
    """
    steps, pairs, patients = (2, 2, 3) if quick else (20, 51, 12)
    raw = read_json_object(JOB / SETTINGS)
    settings = parse_settings(override(raw, [*_CHANGES, f"training.local_steps={steps}"]))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        hospital = replace(HOSPITALS[0], patients=patients, held_out=4)
        generate(folder / "data", [hospital], seed=0, in_plane=_SIZE)
        bare = _BareLoop(settings, folder / "data" / _SITE)
        bares, parts = [], []
        with closing(_ExecutorRound(settings, folder)) as ours:
            for pair in range(pairs + 1):
                # The second one finds the processor's caches as the first left them.
                for turn in ("bare", "ours") if pair % 2 else ("ours", "bare"):
                    if turn == "bare":
                        bares.append(bare.take_steps())
                    else:
                        parts.append(ours.answer())
    # The first pair reads the scans and warms up.
    return _rows(bares[1:], parts[1:], steps, len(ours.validation))


def _rows(bares: list[float], parts: list[_Parts], steps: int, patients: int) -> list[Row]:
    def a_step(seconds: list[float]) -> list[float]:
        return [1e3 * each / steps for each in seconds]

    pairs = list(zip(bares, parts, strict=True))
    without_scoring = [part.total - part.scoring for part in parts]
    inside = [part.steps - bare for bare, part in pairs]
    return [
        make_row(
            f"added by the Executor, scoring aside, {steps} steps",
            a_step([part.total - part.scoring - bare for bare, part in pairs]),
            "ms a step",
            target=TARGET if len(pairs) >= LEAST else None,
        ),
        make_row("bare MONAI loop", a_step(bares), "ms a step"),
        make_row("Executor, scoring aside", a_step(without_scoring), "ms a step"),
        make_row("added inside the steps", a_step(inside), "ms a step"),
        make_row(
            "added once a round",
            [1e3 * (part.total - part.scoring - part.steps) for part in parts],
            "ms a round",
        ),
        make_row(
            f"scoring of the base, {patients} patients",
            [1e3 * part.scoring for part in parts],
            "ms a round",
        ),
        make_row(
            f"added by the Executor, scoring included, {steps} steps",
            a_step([part.total - bare for bare, part in pairs]),
            "ms a step",
        ),
    ]


class _BareLoop:
    """Training with MONAI alone.

    Args:
        settings: the job's.
        folder: the hospital's.
    """

    def __init__(self, settings: Settings, folder: Path):
        self._plan = settings.training
        split = split_cases(read_datalist(folder), settings.data.validation_fraction)
        volumes = CacheDataset(
            [{"image": str(case.image), "label": str(case.label)} for case in split.training],
            build_preprocessing(settings.data, with_label=True),
            num_workers=1,
            progress=False,
        )
        slices = [
            {key: volume[key].as_tensor()[..., z] for key in ("image", "label")}
            for volume in volumes
            for z in range(volume["image"].shape[-1])
        ]
        loader = DataLoader(
            Dataset(slices, build_augmentation(settings.data)),
            batch_size=self._plan.batch,
            shuffle=True,
            drop_last=True,
            num_workers=0,
        )
        self._batches = _without_end(loader)
        self._network = build_network(settings).to(memory_format=torch.channels_last)
        self._dice = DiceLoss(sigmoid=True, batch=True)
        self._optimiser = torch.optim.AdamW(
            self._network.parameters(),
            lr=self._plan.learning_rate,
            weight_decay=self._plan.weight_decay,
        )

    def take_steps(self) -> float:
        """Takes the steps of a round; returns their seconds."""
        started = time.perf_counter()
        self._network.train()
        for _ in range(self._plan.local_steps):
            batch = next(self._batches)
            images = batch["image"].float().contiguous(memory_format=torch.channels_last)
            masks = batch["label"].float()
            logits = self._network(images)
            loss = self._dice(logits, masks)
            loss = loss + torch.nn.functional.binary_cross_entropy_with_logits(logits, masks)
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._network.parameters(), self._plan.clip)
            self._optimiser.step()
        return time.perf_counter() - started


def _without_end(loader: DataLoader) -> Iterator[dict[str, torch.Tensor]]:
    while True:
        yield from loader


class _ExecutorRound:
    """The hospital's side of a round, called as by FLARE's client runner.

    Args:
        settings: the job's.
        folder: for the site's workspace; contains `data/`.
    """

    def __init__(self, settings: Settings, folder: Path):
        data = SiteData(
            str(folder / "data" / "{site}"),
            str(folder / "state"),
            smallest_group=1,
            privacy=simulated_privacy(1),
        )
        self._executor, self._state = _TimedExecutor(), folder / "state"
        self._fl_ctx = _fake_context(settings, folder / "site", data)
        self._base: State = build_network(settings).state_dict()
        self._base_sha256 = digest(self._base)
        self._round = 0
        self._rounds = settings.rounds
        split = split_cases(read_datalist(folder / "data" / _SITE), 0)
        self.validation = split.validation

    def answer(self) -> _Parts:
        """Answers a round; returns the seconds of its parts."""
        task = model_to_shareable(self._base, round=self._round, base_sha256=self._base_sha256)
        self._round = (self._round + 1) % self._rounds
        started = time.perf_counter()
        reply = self._executor.execute(TRAIN, task, self._fl_ctx, Signal())
        total = time.perf_counter() - started
        answer = answer_from_shareable(reply, _SITE, Pipeline())
        if not isinstance(answer, Update):
            raise EnvironmentProblem("no-update", f"the Executor answered {answer.code}", TRAIN)
        [times] = self._state.glob(f"*/{_TIMES}")
        return _Parts(total, **read_json_object(times))

    def close(self) -> None:
        """Ends the hospital's process."""
        self._executor.handle_event(EventType.END_RUN, self._fl_ctx)


class TimedHospital(LocalTrainer):
    """The real hospital, which also writes the seconds of its parts to a file."""

    def _measure(self, round_number: int, stage: str) -> Any:
        started = time.perf_counter()
        result = super()._measure(round_number, stage)
        self._scoring = time.perf_counter() - started
        return result

    def _fit(self, round_number: int, stage: str, *randomness: str | int) -> tuple[float, int]:
        started = time.perf_counter()
        found = super()._fit(round_number, stage, *randomness)
        steps = time.perf_counter() - started
        write_json(self._site.state / _TIMES, {"scoring": self._scoring, "steps": steps})
        return found


class _TimedExecutor(HospitalExecutor):
    """The real Executor with a `TimedHospital`."""

    hospital = f"{__name__}:{TimedHospital.__name__}"


def _fake_context(settings: Settings, root: Path, data: SiteData) -> FLContext:
    """Makes a FLARE context for a site's workspace; its engine holds the site's data."""
    for name in ("startup", "local"):
        (root / name).mkdir(parents=True)
    workspace = Workspace(str(root), site_name=_SITE)
    raw = settings.model_dump(by_alias=True, mode="json")
    prepare_job(JOB, root / "job", run=_JOB_ID, hospitals=[_SITE], settings=raw)
    meta = {**read_json_object(root / "job" / "meta.json"), "job_id": _JOB_ID}
    write_json(Path(workspace.get_job_meta_path(_JOB_ID)), meta)
    shutil.copytree(root / "job" / SETTINGS.parent, workspace.get_app_config_dir(_JOB_ID))
    context = FLContext()
    engine = SimpleNamespace(get_component={"site_data": data}.get)
    for key, value in (
        (FLContextKey.WORKSPACE_OBJECT, workspace),
        (ReservedKey.ENGINE, engine),
        (ReservedKey.RUN_NUM, _JOB_ID),
        (ReservedKey.IDENTITY_NAME, _SITE),
    ):
        context.set_prop(key, value, private=True, sticky=False)
    return context
