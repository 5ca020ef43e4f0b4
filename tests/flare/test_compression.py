"""Updates in fewer bytes through FLARE's filters."""

import json
import shutil

import numpy as np
import pytest
from tests.conftest import JOB, TINY

from consortium.core.errors import UsageError
from consortium.flare import compression
from consortium.runs.simulator import Simulation
from consortium.settings.base import read_json_object
from consortium.study.job_folder import export_job

NAMES = ["harbour", "north", "valley"]
WIDE = "network.features=[16, 32]"
CLIENT = "app/config/config_fed_client.json"


@pytest.mark.flare
@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_a_run_of_small_updates_is_complete_and_hospitals_keep_what_rounding_took(
    kind, generated, tmp_path
):
    result = Simulation(
        job=JOB,
        data=generated,
        workspace=tmp_path / "run",
        assignments=[*TINY, WIDE, "rounds=3", f"update.compression={kind}", "cross_site=true"],
        smallest_group=1,
    ).run()
    assert (result["complete"], result["reason"]) == (True, "")
    for name in NAMES:
        [*_, last] = sorted((tmp_path / "run" / "hospitals" / name).rglob("residual-*"))
        residual = compression._load_residual(last.parent, 99)
        assert 0 < np.abs(residual).max() < 0.01
    assert all(row is not None for row in result["cross_site"].values())


def test_a_round_that_is_asked_for_again_starts_from_the_one_before(tmp_path):
    for number in (0, 1, 4):
        compression._save_residual(tmp_path, number, np.full(3, number, np.float32))
    assert compression._load_residual(tmp_path, 0) is None
    assert compression._load_residual(tmp_path, 1) is None  # two are kept
    assert compression._load_residual(tmp_path, 4)[0] == 1
    assert compression._load_residual(tmp_path, 5)[0] == 4
    (tmp_path / "residual-000004.safetensors").write_bytes(b"torn")
    assert compression._load_residual(tmp_path, 5) is None


@pytest.mark.parametrize(
    "filters",
    [
        [],
        [{"path": "consortium.flare.compression.CompressUpdate"}, {"path": "another.Filter"}],
        [{"path": "consortium.flare.compression.CompressUpdate"}] * 2,
    ],
)
def test_a_job_whose_filters_do_not_go_with_it_is_not_made(filters, tmp_path):
    job = tmp_path / "job"
    shutil.copytree(JOB, job)
    client = read_json_object(job / CLIENT)
    client["task_result_filters"] = [{"tasks": ["train"], "filters": filters}]
    (job / CLIENT).write_text(json.dumps(client))
    export_job(job, tmp_path / "plain", with_package=False)
    with pytest.raises(UsageError, match=r"bad-filters.* is the last of the task_result_filters"):
        export_job(
            job, tmp_path / "small", assignments=["update.compression=int8"], with_package=False
        )
    assert not (tmp_path / "small").exists()
