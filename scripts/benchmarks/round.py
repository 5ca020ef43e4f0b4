"""The wall time of a round less the slowest hospital's training, beside stock FLARE's.

Both run in FLARE's simulator, every hospital a process of its own, in turns. Ours is the job as it
is shipped, with its server's configuration and the real Executor; a sleep of known length stands in
for the optimiser steps, and nobody validates. Stock is FLARE's own ScatterAndGather, PyTorch
persistor, weighted aggregator and full-model generator with every interval at 0.05 s, and the least
Executor that sleeps as long and sends a change of the same names and shapes.

What always holds: a round lasts from its start to the start of the next one, so whatever the server
does in between is in it; the first round of a run, which opens everything, is left out; and the
figures of the parts of a round add up to the round only roughly, since each is a median.
"""

import contextlib
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from nvflare.app_common.app_event_type import AppEventType
from scripts.benchmarks import round_parts
from scripts.benchmarks.report import LEAST, Row, make_row
from scripts.benchmarks.training import JOB

from consortium.errors import EnvironmentProblem
from consortium.files import write_json
from consortium.flare.simulator import start_simulator
from consortium.generator.dataset import generate
from consortium.generator.hospitals import HOSPITALS
from consortium.jobs import SETTINGS, prepare_job
from consortium.settings import override, parse_settings, read_json_object
from consortium.training.networks import build_network

_SERVER = Path("app/config/config_fed_server.json")
_CLIENT = Path("app/config/config_fed_client.json")
_PARTS = Path("app/custom/round_parts.py")
_INTERVAL = 0.05  # seconds, of everything that stock FLARE lets a job set
_PATIENCE = 900  # seconds for one run
_POLL = 0.3  # seconds between two looks whether a run is done


@dataclass(frozen=True, slots=True)
class Size:
    """How much is run.

    Attributes:
        hospitals: how many take part.
        pairs: runs of each.
        rounds: a run that are counted.
        seconds: that a stand-in's training takes.
        features: of the network, top to bottom.
    """

    hospitals: int
    pairs: int
    rounds: int
    seconds: float
    features: list[int]

    @property
    def names(self) -> list[str]:
        """Of the hospitals."""
        return [hospital.name for hospital in HOSPITALS[: self.hospitals]]


WriteJob = Callable[[Path, Path, Size], None]
"""Writes a job to a folder, given the folder of the moments."""

FULL = Size(hospitals=4, pairs=3, rounds=10, seconds=0.5, features=[80, 160, 320, 576])
"""A network of 5 million parameters."""
QUICK = Size(hospitals=1, pairs=1, rounds=1, seconds=0.1, features=[4, 8])


@dataclass(frozen=True, slots=True)
class Parts:
    """Where the time of one round went, in seconds.

    Attributes:
        added: the round less the slowest hospital's training.
        out: from its start until the last hospital has the model and trains.
        back: from the end of the last training until its update is taken.
        seen: from there until the workflow sees that all have answered.
        close: from there until the new model is on disk.
        rest: from there to the start of the next round.
    """

    added: float
    out: float
    back: float
    seen: float
    close: float
    rest: float


_TOLD = {
    "out": "hand out the model",
    "back": "take the updates",
    "seen": "see that all have answered",
    "close": "aggregate and save",
    "rest": "until the next round",
}


def measure(quick: bool) -> list[Row]:
    """Runs the pairs.

    Args:
        quick: one pair of one round with a tiny network.
    """
    size = QUICK if quick else FULL
    parts: dict[str, list[Parts]] = {"ours": [], "stock": []}
    jobs: dict[str, Callable[[Path, Path, Size], None]] = {
        "ours": _write_ours,
        "stock": _write_stock,
    }
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        data = Path(temporary) / "data"
        few = [replace(HOSPITALS[i], patients=2, held_out=0) for i in range(size.hospitals)]
        generate(data, few, seed=0, in_plane=32, slices=6)
        for pair in range(size.pairs):
            for name in ("ours", "stock") if pair % 2 else ("stock", "ours"):
                workspace = Path(temporary) / f"{name}-{pair}"
                parts[name] += _run(workspace, data, size, jobs[name])
                shutil.rmtree(workspace, ignore_errors=True)
    return _rows(parts["ours"], parts["stock"])


def _rows(ours: list[Parts], stock: list[Parts]) -> list[Row]:
    beside = make_row("stock FLARE, the same", [each.added for each in stock], "s a round")
    rows = [
        make_row(
            "ours: a round less the slowest training",
            [each.added for each in ours],
            "s a round",
            target=beside.value if len(ours) >= LEAST else None,
        ),
        beside,
    ]
    for name, parts in (("ours", ours), ("stock", stock)):
        for field in fields(Parts)[1:]:
            told = [getattr(each, field.name) for each in parts]
            rows.append(make_row(f"{name}: {_TOLD[field.name]}", told, "s a round"))
    return rows


def _run(workspace: Path, data: Path, size: Size, write_job: WriteJob) -> list[Parts]:
    """One run; where the time of its counted rounds went."""
    moments = workspace / "moments"
    moments.mkdir(parents=True)
    job = workspace / "job" / "benchmark"
    write_job(job, moments, size)
    (job / _PARTS).parent.mkdir()
    shutil.copy(round_parts.__file__, job / _PARTS)
    process = start_simulator(
        job,
        hospitals=size.names,
        data=data,
        workspace=workspace,
        smallest_group=1,
        share_models=False,
        environment=os.environ,
    )
    deadline = time.monotonic() + _PATIENCE
    try:
        while True:
            ended = process.poll() is not None or time.monotonic() > deadline
            try:
                return read_parts(moments, size)
            except (OSError, ValueError, KeyError) as error:
                if ended:
                    raise _no_rounds(workspace / "federation.log", size) from error
            time.sleep(_POLL)
    finally:
        # What FLARE does after the rounds is not measured; sites end without their parent.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _no_rounds(log: Path, size: Size) -> EnvironmentProblem:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    told = [line for line in lines if "Error" in line or " ERROR " in line]
    last = told[-1] if told else "no error in its log"
    return EnvironmentProblem("no-rounds", f"FLARE ended before {size.rounds + 2} rounds", last)


def read_parts(moments: Path, size: Size) -> list[Parts]:
    """Where the time of a run's counted rounds went.

    Args:
        moments: folder of the files that `round_parts.note` wrote.
        size: of the run; its rounds count from the second, and one more must have begun.

    Raises:
        OSError, ValueError, KeyError: a moment is missing, or half-written.
    """
    server: dict[tuple[str, int], list[float]] = {}
    training: dict[int, list[list[float]]] = {}
    for path in moments.glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            said = json.loads(line)
            if path.stem == round_parts.SERVER:
                server.setdefault((said["what"], said["round"]), []).extend(said["moments"])
            else:
                training.setdefault(said["round"], []).append(said["moments"])
    parts = []
    for number in range(1, size.rounds + 1):
        if len(training[number]) != size.hospitals:
            raise ValueError(f"{len(training[number])} hospitals trained in round {number}")
        parts.append(_parts_of(server, training[number], number))
    return parts


def _parts_of(
    server: dict[tuple[str, int], list[float]], training: list[list[float]], number: int
) -> Parts:
    begun = server[AppEventType.ROUND_STARTED, number][0]
    next_begun = server[AppEventType.ROUND_STARTED, number + 1][0]
    taken = max(server[AppEventType.AFTER_CONTRIBUTION_ACCEPT, number])
    seen = server[AppEventType.BEFORE_AGGREGATION, number][0]
    done = server[AppEventType.ROUND_DONE, number][0]
    slowest = max(end - start for start, end in training)
    return Parts(
        added=next_begun - begun - slowest,
        out=max(start for start, _ in training) - begun,
        back=taken - max(end for _, end in training),
        seen=seen - taken,
        close=done - seen,
        rest=next_begun - done,
    )


def _settings(size: Size) -> dict[str, Any]:
    return override(
        read_json_object(JOB / SETTINGS),
        [
            # One before and one after those that are counted.
            f"rounds={size.rounds + 2}",
            f"network.features={size.features}",
            "data.validation_fraction=0",
            "data.size=[32,32]",
        ],
    )


def _stand_in(name: str, moments: Path, size: Size) -> dict[str, Any]:
    args = {"folder": str(moments), "seconds": size.seconds}
    return {"path": f"round_parts.{name}", "args": args}


def _clock(moments: Path) -> dict[str, Any]:
    return {"id": "clock", "path": "round_parts.RoundClock", "args": {"folder": str(moments)}}


def _write_ours(job: Path, moments: Path, size: Size) -> None:
    """The shipped job with the stand-in at the hospitals and the clock at the server."""
    prepare_job(JOB, job, run="benchmark", hospitals=size.names, settings=_settings(size))
    server = read_json_object(job / _SERVER)
    server["components"].append(_clock(moments))
    write_json(job / _SERVER, server)
    client = read_json_object(job / _CLIENT)
    client["executors"][0]["executor"] = _stand_in("StandInExecutor", moments, size)
    write_json(job / _CLIENT, client)


def _write_stock(job: Path, moments: Path, size: Size) -> None:
    """Stock FLARE with every interval at 0.05 s, from a file of the same network's weights."""
    start = moments.with_name("start.pt")
    torch.save(build_network(parse_settings(_settings(size))).state_dict(), start)
    common = "nvflare.app_common"
    components = {
        "persistor": (
            "nvflare.app_opt.pt.file_model_persistor.PTFileModelPersistor",
            {"source_ckpt_file_full_name": str(start), "allow_numpy_conversion": False},
        ),
        "aggregator": (
            f"{common}.aggregators.intime_accumulate_model_aggregator"
            ".InTimeAccumulateWeightedAggregator",
            {"expected_data_kind": "WEIGHT_DIFF"},
        ),
        "model": (
            f"{common}.shareablegenerators.full_model_shareable_generator"
            ".FullModelShareableGenerator",
            {},
        ),
    }
    workflow = {
        "aggregator_id": "aggregator",
        "persistor_id": "persistor",
        "shareable_generator_id": "model",
        "train_task_name": "train",
        "num_rounds": size.rounds + 2,
        "min_clients": size.hospitals,
        "wait_time_after_min_received": 0,
        "task_check_period": _INTERVAL,
        "snapshot_every_n_rounds": 0,
    }
    write_json(
        job / "meta.json",
        {
            "name": "stock",
            "resource_spec": {},
            "deploy_map": {"app": ["@ALL"]},
            "min_clients": size.hospitals,
        },
    )
    write_json(
        job / _SERVER,
        {
            "format_version": 2,
            "server": {"heart_beat_timeout": 600, "task_request_interval": _INTERVAL},
            "task_data_filters": [],
            "task_result_filters": [],
            "components": [
                *({"id": i, "path": path, "args": args} for i, (path, args) in components.items()),
                _clock(moments),
            ],
            "workflows": [
                {
                    "id": "training",
                    "path": f"{common}.workflows.scatter_and_gather.ScatterAndGather",
                    "args": workflow,
                }
            ],
        },
    )
    write_json(
        job / _CLIENT,
        {
            "format_version": 2,
            "default_task_fetch_interval": _INTERVAL,
            "executors": [
                {"tasks": ["train"], "executor": _stand_in("StockExecutor", moments, size)}
            ],
            "task_data_filters": [],
            "task_result_filters": [],
            "components": [],
        },
    )
