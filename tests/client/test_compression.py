import numpy as np
from consortium.client.compression import load_residual, save_residual


def test_a_round_that_is_asked_for_again_starts_from_the_one_before(tmp_path):
    for number in (0, 1, 4):
        save_residual(tmp_path, number, np.full(3, number, np.float32))
    assert load_residual(tmp_path, 0) is None
    assert load_residual(tmp_path, 1) is None  # two are kept
    assert load_residual(tmp_path, 4)[0] == 1
    assert load_residual(tmp_path, 5)[0] == 4
    (tmp_path / "residual-000004.safetensors").write_bytes(b"torn")
    assert load_residual(tmp_path, 5) is None
