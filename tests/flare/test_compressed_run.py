"""Compressed updates in a run of FLARE's; `tests/protocol` and `test_executor` have the rest."""

import numpy as np
import pytest
from tests.conftest import JOB, TINY

from consortium.protocol.compression import ResidualStore
from consortium.runs.simulator import Simulation

NAMES = ["harbour", "north", "valley"]


@pytest.mark.flare
def test_a_run_of_compressed_updates_is_complete_and_hospitals_keep_residuals(generated, tmp_path):
    result = Simulation(
        job=JOB,
        data=generated,
        workspace=tmp_path / "run",
        assignments=[
            *TINY,
            "network.features=[16, 32]",
            "rounds=3",
            "update.compression=int8",
            "cross_site=true",
        ],
        smallest_group=1,
        smallest_training=1,
    ).run()
    assert (result["complete"], result["reason"]) == (True, "")
    for name in NAMES:
        [*_, last] = sorted((tmp_path / "run" / "hospitals" / name).rglob("residual-*"))
        residual = ResidualStore(last.parent).load(before_round=99)
        assert 0 < np.abs(residual).max() < 0.01
    assert all(row is not None for row in result["cross_site"].values())
