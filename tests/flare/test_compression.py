"""Updates in fewer bytes through FLARE's filters."""

import json
import shutil

import numpy as np
import pytest
from tests.conftest import JOB, TINY

from consortium.client.compression import load_residual
from consortium.core.errors import UsageError
from consortium.runs.simulator import Simulation
from consortium.settings.base import read_json_object
from consortium.study.job_folder import export_job

NAMES = ["harbour", "north", "valley"]
WIDE = "network.features=[16, 32]"
CLIENT = "app/config/config_fed_client.json"


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
        residual = load_residual(last.parent, 99)
        assert 0 < np.abs(residual).max() < 0.01
    assert all(row is not None for row in result["cross_site"].values())


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
