import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from consortium.core.errors import EnvironmentProblem
from consortium.protocol.codec import pack, unpack
from consortium.protocol.compression import (
    BLOCK,
    MIN_ELEMENTS,
    Compression,
    ErrorFeedbackCompressor,
    ResidualStore,
    decompress,
)

KINDS = ["bfloat16", "int8"]
CONTENTS = [("small", "float32", [3]), ("w", "float32", [2, 600]), ("n", "int64", [1])]
VALUES = arrays(np.float32, 1203, elements=st.floats(-100, 100, width=32))


def buffers_of(values):
    return {"float32": values, "int64": np.array([7])}


def through(kind, values, compressor=None):
    small = (compressor or ErrorFeedbackCompressor(kind)).compress(CONTENTS, buffers_of(values))
    return decompress(kind, CONTENTS, small)["float32"]


@pytest.mark.parametrize("kind", KINDS)
@given(VALUES)
def test_every_element_comes_back_to_within_half_a_step(kind, values):
    restored = through(kind, values)
    assert (restored[:3] == values[:3]).all()
    if kind == "bfloat16":
        expected = torch.from_numpy(values[3:]).bfloat16().float().numpy()
        np.testing.assert_array_equal(restored[3:], expected)
        return
    for start in range(3, 1203, BLOCK):
        block = values[start : start + BLOCK]
        step = np.abs(block).max() / 127
        assert np.abs(restored[start : start + BLOCK] - block).max() <= step * 0.5001 + 1e-37


@pytest.mark.parametrize("kind", KINDS)
def test_later_rounds_carry_what_rounding_removed(kind):
    rng = np.random.default_rng(0)
    compressor = ErrorFeedbackCompressor(kind)
    sent = received = np.zeros(1203, np.float64)
    for _ in range(50):
        values = rng.standard_normal(1203).astype(np.float32)
        sent, received = sent + values, received + through(kind, values, compressor)
    # The sum of all rounds lacks only the residual of the last round.
    np.testing.assert_allclose((sent - received)[3:], compressor.residual, atol=1e-4)
    assert np.abs(compressor.residual).max() < 0.05


@pytest.mark.parametrize(("kind", "share"), [("bfloat16", 0.5), ("int8", 0.27)])
def test_a_compressed_update_has_the_documented_size(kind, share):
    contents = [("w", "float32", [1000, 1000])]
    whole = {"float32": np.ones(10**6, np.float32)}
    small = ErrorFeedbackCompressor(kind).compress(contents, whole)
    assert sum(flat.nbytes for flat in small.values()) <= share * whole["float32"].nbytes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_stay_so_and_leave_no_residual(kind, bad):
    values = np.ones(1203, np.float32)
    values[700] = bad
    compressor = ErrorFeedbackCompressor(kind)
    assert not np.isfinite(through(kind, values, compressor)).all()
    assert np.isfinite(compressor.residual).all()


def test_a_nan_of_any_bits_stays_nan():
    values = np.full(1203, 0x7FFFFFFF, np.uint32).view(np.float32)
    assert np.isnan(through("bfloat16", values)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_models_update_is_restored_and_small_tensors_are_not_changed(kind):
    network = torch.nn.Sequential(torch.nn.Conv2d(8, 32, 3), torch.nn.BatchNorm2d(32))
    state = {
        name: torch.rand_like(t.float()).to(t.dtype) for name, t in network.state_dict().items()
    }
    contents, buffers = pack(state)
    before = {key: flat.copy() for key, flat in buffers.items()}
    restored = unpack(
        contents,
        decompress(kind, contents, ErrorFeedbackCompressor(kind).compress(contents, buffers)),
    )
    assert all((before[key] == buffers[key]).all() for key in buffers)
    for name, tensor in state.items():
        if tensor.numel() < MIN_ELEMENTS:
            assert torch.equal(restored[name], tensor)
        else:
            torch.testing.assert_close(restored[name], tensor, atol=0.005, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_without_large_tensors_is_not_changed(kind):
    contents = [("w", "float32", [3])]
    buffers = {"float32": np.array([1.0, 2.0, 3.0], np.float32)}
    restored = decompress(kind, contents, ErrorFeedbackCompressor(kind).compress(contents, buffers))
    assert restored["float32"].tolist() == [1, 2, 3]
    assert ErrorFeedbackCompressor(kind).compress([], {}) == {}
    assert decompress(kind, [], {}) == {}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda small: small.pop("float32.codes"),
        lambda small: small.update({"float32.codes": small["float32.codes"][:-1]}),
        lambda small: small.update({"float32.codes": small["float32.codes"].astype(np.int64)}),
        lambda small: small.update({"float32.scales": np.ones(99, np.float32)}),
        lambda small: small.update({"float32": np.ones(9, np.float32)}),
        lambda small: small.update({"float32": np.ones(3)}),
        lambda small: small.update({"float32": "x"}),
        lambda small: small.clear(),
    ],
)
def test_what_does_not_fit_is_refused(kind, spoil):
    small = ErrorFeedbackCompressor(kind).compress(CONTENTS, buffers_of(np.ones(1203, np.float32)))
    spoil(small)
    with pytest.raises(ValueError, match=r"fit|malformed"):
        decompress(kind, CONTENTS, small)


@pytest.mark.parametrize("contents", [None, [1], [("w", "float32", [-1])], [("w", "float32", "x")]])
def test_invalid_contents_are_refused(contents):
    small = ErrorFeedbackCompressor("int8").compress(
        CONTENTS, buffers_of(np.ones(1203, np.float32))
    )
    with pytest.raises(ValueError, match=r"fit|malformed"):
        decompress("int8", contents, small)


def test_contents_that_declare_more_than_arrived_cost_no_memory():
    small = ErrorFeedbackCompressor("int8").compress(
        CONTENTS, buffers_of(np.ones(1203, np.float32))
    )
    with pytest.raises(ValueError, match="fit"):
        decompress("int8", [("w", "float32", [2**50])], small)


def test_a_repeated_round_starts_from_the_residual_before_it(tmp_path):
    residuals = ResidualStore(tmp_path)
    for number in (0, 1, 4):
        residuals.save(number, np.full(3, number, np.float32))
    assert residuals.load(before_round=0) is None
    assert residuals.load(before_round=1) is None  # two are kept
    assert residuals.load(before_round=4)[0] == 1
    assert residuals.load(before_round=5)[0] == 4
    (tmp_path / "residual-000004.safetensors").write_bytes(b"torn")
    assert residuals.load(before_round=5) is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_step_gives_the_same_bytes_when_a_round_is_repeated(kind, tmp_path):
    step = Compression(kind)
    rng = np.random.default_rng(0)
    rounds = [buffers_of(rng.standard_normal(1203).astype(np.float32)) for _ in range(3)]

    def send(number):
        plain = {"round": number, "contents": CONTENTS}
        return step.client(rounds[number], plain, tmp_path)[0]["float32.codes"].tobytes()

    sent = [send(number) for number in range(3)]
    assert send(2) == sent[2]
    fresh = ErrorFeedbackCompressor(kind).compress(CONTENTS, rounds[2])
    assert fresh["float32.codes"].tobytes() != sent[2]  # the residual of the round before counts


def test_the_residual_is_on_disk_before_the_update_leaves(tmp_path):
    (tmp_path / "state").write_text("a file where the folder should be")
    plain = {"round": 0, "contents": CONTENTS}
    with pytest.raises(EnvironmentProblem, match="cannot-write"):
        Compression("int8").client(buffers_of(np.ones(1203, np.float32)), plain, tmp_path / "state")


@pytest.mark.parametrize("field", [{}, {"compression": "int8"}, {"compression": ["bfloat16"]}])
def test_an_update_that_is_not_compressed_as_the_job_declares_is_refused(field):
    with pytest.raises(ValueError, match="not compressed as bfloat16"):
        Compression("bfloat16").server(
            buffers_of(np.ones(1203, np.float32)), {"contents": CONTENTS, **field}
        )
