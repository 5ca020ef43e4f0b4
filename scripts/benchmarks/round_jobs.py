"""The jobs of the benchmarks `round` and `scale`: ours as shipped, and stock FLARE's.

Stand-ins replace training.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scripts.benchmarks import round_parts, scale_parts
from scripts.benchmarks.training import JOB

from consortium.core.files import write_json
from consortium.core.json_files import read_json_object
from consortium.models.networks import build_network
from consortium.settings.base import override
from consortium.study.job_folder import (
    CLIENT_CONFIG,
    SERVER_CONFIG,
    SETTINGS,
    prepare_job,
    seal_job,
)
from consortium.synthetic.hospitals import HOSPITALS
from consortium.tasks.registry import parse_settings

_CUSTOM = Path("app/custom")
_COMMON = "nvflare.app_common"
_INTERVAL = 0.05  # seconds, for every interval that stock FLARE lets a job set


@dataclass(frozen=True, slots=True)
class Size:
    """Size of a measurement.

    Attributes:
        hospitals: number of hospitals.
        turns: runs of each job.
        rounds: counted rounds of each run.
        seconds: duration of a stand-in's training.
        features: of the network, top to bottom.
    """

    hospitals: int
    turns: int
    rounds: int
    seconds: float
    features: list[int]

    @property
    def names(self) -> list[str]:
        """Names of the hospitals."""
        real = [hospital.name for hospital in HOSPITALS[: self.hospitals]]
        return [*real, *(f"hospital-{number:02d}" for number in range(len(real), self.hospitals))]


WriteJob = Callable[[Path, Path, Size], None]
"""Writes a job; its arguments are the job's folder, the folder of the moments and the size."""


def write_ours(job: Path, moments: Path, size: Size) -> None:
    """Writes the shipped job with the stand-in at the hospitals and the clock at the server."""
    _write_ours(job, moments, size, _stand_in("StandInExecutor", moments, size))


def write_light(job: Path, moments: Path, size: Size) -> None:
    """Writes the same with hospitals that need no torch."""
    _write_ours(job, moments, size, {"path": "scale_parts.LightExecutor", "args": {}})


def _write_ours(job: Path, moments: Path, size: Size, executor: dict[str, Any]) -> None:
    prepare_job(JOB, job, run="", hospitals=size.names, settings=light_settings(size))
    server = read_json_object(job / SERVER_CONFIG)
    server["components"].append(_clock(moments))
    write_json(job / SERVER_CONFIG, server)
    client = read_json_object(job / CLIENT_CONFIG)
    client["executors"][0]["executor"] = executor
    write_json(job / CLIENT_CONFIG, client)
    _add_parts(job)
    seal_job(job)


def write_tuned(job: Path, moments: Path, size: Size) -> None:
    """Writes stock FLARE's job with every interval at 0.05 s."""
    write_default(job, moments, size)
    _tune(job)


def write_light_stock(job: Path, moments: Path, size: Size) -> None:
    """Writes the same with a numpy model of as many parameters and hospitals without torch."""
    start = moments.with_name("start.npy")
    np.save(start, np.zeros(count_parameters(size), np.float32))
    persistor = (
        f"{_COMMON}.np.np_model_persistor.NPModelPersistor",
        {"source_ckpt_file_full_name": str(start)},
    )
    _write_stock(
        job, moments, size, persistor, {"path": "scale_parts.LightStockExecutor", "args": {}}
    )
    _tune(job)


def count_parameters(size: Size) -> int:
    """Counts the elements of the model."""
    network = build_network(parse_settings(light_settings(size)))
    return sum(tensor.numel() for tensor in network.state_dict().values())


def _tune(job: Path) -> None:
    server = read_json_object(job / SERVER_CONFIG)
    server["server"]["task_request_interval"] = _INTERVAL
    workflow = server["workflows"][0]["args"]
    workflow |= {"task_check_period": _INTERVAL, "wait_time_after_min_received": 0}
    write_json(job / SERVER_CONFIG, server)
    client = read_json_object(job / CLIENT_CONFIG)
    write_json(job / CLIENT_CONFIG, {**client, "default_task_fetch_interval": _INTERVAL})


def write_default(job: Path, moments: Path, size: Size) -> None:
    """Writes stock FLARE's job with the default intervals."""
    start = moments.with_name("start.pt")
    torch.save(build_network(parse_settings(light_settings(size))).state_dict(), start)
    persistor = (
        "nvflare.app_opt.pt.file_model_persistor.PTFileModelPersistor",
        {"source_ckpt_file_full_name": str(start), "allow_numpy_conversion": False},
    )
    _write_stock(job, moments, size, persistor, _stand_in("StockExecutor", moments, size))


def _write_stock(
    job: Path,
    moments: Path,
    size: Size,
    persistor: tuple[str, dict[str, Any]],
    executor: dict[str, Any],
) -> None:
    """Writes a job with FLARE's own components."""
    components: dict[str, tuple[str, dict[str, Any]]] = {
        "persistor": persistor,
        "aggregator": (
            f"{_COMMON}.aggregators.intime_accumulate_model_aggregator"
            ".InTimeAccumulateWeightedAggregator",
            {"expected_data_kind": "WEIGHT_DIFF"},
        ),
        "model": (
            f"{_COMMON}.shareablegenerators.full_model_shareable_generator"
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
        job / SERVER_CONFIG,
        {
            "format_version": 2,
            "server": {"heart_beat_timeout": 600},
            "task_data_filters": [],
            "task_result_filters": [],
            "components": [
                *({"id": i, "path": path, "args": args} for i, (path, args) in components.items()),
                _clock(moments),
            ],
            "workflows": [
                {
                    "id": "training",
                    "path": f"{_COMMON}.workflows.scatter_and_gather.ScatterAndGather",
                    "args": workflow,
                }
            ],
        },
    )
    write_json(
        job / CLIENT_CONFIG,
        {
            "format_version": 2,
            "executors": [
                {"tasks": ["train"], "executor": executor},
            ],
            "task_data_filters": [],
            "task_result_filters": [],
            "components": [],
        },
    )
    _add_parts(job)


def light_settings(size: Size) -> dict[str, Any]:
    """Returns the job's settings with a network of this size and small images."""
    return override(
        read_json_object(JOB / SETTINGS),
        [
            # One round before and one after the counted rounds.
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


def _add_parts(job: Path) -> None:
    (job / _CUSTOM).mkdir()
    for parts in (round_parts, scale_parts):
        shutil.copy(str(parts.__file__), job / _CUSTOM)
