import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from consortium.core.errors import Failure, UsageError, failure_from_wire, failure_of
from consortium.protocol.codec import digest
from consortium.protocol.metrics import Metrics, MetricSpec, Score, ScoreSpec
from consortium.protocol.schema import Reduction, TensorSpec
from consortium.protocol.update import (
    Expected,
    Update,
    UpdateRefused,
    apply_change,
    difference,
    update_from_wire,
    update_to_wire,
    validate,
)

SCHEMA = {
    "count": TensorSpec(torch.int64, (), Reduction.INTEGER),
    "kept": TensorSpec(torch.float32, (2,), Reduction.LOCAL),
    "weight": TensorSpec(torch.float32, (2, 3), Reduction.MEAN),
}
SCORED = ScoreSpec((MetricSpec(name="tumour", figure="Dice", of="tumour", headline=True),))
EXPECTED = Expected(3, "abc", SCHEMA, max_cases=100, max_change=10.0, scored=SCORED)


def make_update(**changes):
    tensors = {"weight": torch.zeros(2, 3), "count": torch.tensor(1)}
    fields = {
        "hospital": "north",
        "round": 3,
        "base_sha256": "abc",
        "cases": 7,
        "tensors": tensors,
        "metrics": Metrics(),
    }
    return Update(**(fields | changes))


def with_tensor(name, tensor):
    update = make_update()
    return make_update(tensors={**update.tensors, name: tensor})


def test_a_sound_update_passes():
    validate(make_update(), EXPECTED)


@pytest.mark.parametrize(
    ("update", "code", "tensor"),
    [
        (make_update(round=2), "wrong-round", ""),
        (make_update(base_sha256="other"), "wrong-base", ""),
        (make_update(cases=0), "bad-weight", ""),
        (make_update(cases=101), "bad-weight", ""),
        (make_update(cases=7.0), "bad-weight", ""),
        (make_update(cases=True), "bad-weight", ""),
        (make_update(tensors={"weight": torch.zeros(2, 3)}), "missing-tensor", "count"),
        (with_tensor("kept", torch.zeros(2)), "unexpected-tensor", "kept"),
        (with_tensor("extra", torch.zeros(2)), "unexpected-tensor", "extra"),
        (with_tensor("weight", torch.zeros(3, 2)), "wrong-shape", "weight"),
        (with_tensor("weight", torch.zeros(1, 3)), "wrong-shape", "weight"),
        (with_tensor("weight", torch.zeros(2, 3).double()), "wrong-dtype", "weight"),
        (with_tensor("weight", torch.full((2, 3), torch.nan)), "not-finite", "weight"),
        (with_tensor("weight", torch.full((2, 3), -torch.inf)), "not-finite", "weight"),
        (with_tensor("weight", torch.full((2, 3), -10.5)), "too-large", "weight"),
    ],
)
def test_an_unsound_update_is_refused_with_its_code_and_tensor(update, code, tensor):
    with pytest.raises(UpdateRefused) as refusal:
        validate(update, EXPECTED)
    assert (refusal.value.hospital, refusal.value.code, refusal.value.tensor) == (
        "north",
        code,
        tensor,
    )


@given(st.integers(0, 5), st.sampled_from([torch.nan, torch.inf, -torch.inf]))
def test_one_bad_element_anywhere_is_found(position, value):
    tensor = torch.zeros(6)
    tensor[position] = value
    with pytest.raises(UpdateRefused, match="weight"):
        validate(with_tensor("weight", tensor.view(2, 3)), EXPECTED)


def test_an_update_survives_the_wire():
    update = make_update(
        metrics=Metrics(loss=0.5, validation=Score(patients=9, figures={"a": 0.5}))
    )
    back = update_from_wire(*update_to_wire(update), sender="north")
    assert back.metrics == update.metrics
    assert {name: tensor.shape for name, tensor in back.tensors.items()} == {
        "weight": (2, 3),
        "count": (),
    }
    assert digest(back.tensors) == digest(update.tensors)


def test_an_update_in_the_name_of_another_hospital_is_refused():
    with pytest.raises(UpdateRefused) as refusal:
        update_from_wire(*update_to_wire(make_update()), sender="south")
    assert (refusal.value.hospital, refusal.value.code) == ("south", "wrong-hospital")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda buffers, plain: plain.pop("round"),
        lambda buffers, plain: plain.update(contents=None),
        lambda buffers, plain: plain["contents"].append(("more", "float32", [4])),
        lambda buffers, plain: plain["contents"].append(("weight", "float32", [0])),
        lambda buffers, plain: plain["contents"].append(("more", "float32", [-1, -1])),
        lambda buffers, plain: plain["contents"].append(("more", "float16", [1])),
        lambda buffers, plain: buffers.update(float32=torch.zeros(7)),
        lambda buffers, plain: buffers.update(float32=torch.zeros(6).double()),
        lambda buffers, plain: buffers.update(float32="six zeros"),
        lambda buffers, plain: plain.update(metrics={"loss": float("nan")}),
        lambda buffers, plain: plain.update(metrics={"note": "Jane Doe"}),
        lambda buffers, plain: plain["metrics"].update(validation={"patients": 3}),
    ],
)
def test_a_malformed_update_is_refused_and_never_raises_anything_else(spoil):
    buffers, plain = update_to_wire(make_update())
    spoil(buffers, plain)
    with pytest.raises(UpdateRefused) as refusal:
        update_from_wire(buffers, plain, sender="north")
    assert refusal.value.code == "malformed"


def test_the_change_brings_the_base_to_the_local_model():
    base = {"weight": torch.randn(2, 3), "count": torch.tensor(4), "kept": torch.zeros(2)}
    local = {"weight": torch.randn(2, 3), "count": torch.tensor(24), "kept": torch.ones(2)}
    change = difference(local, base, SCHEMA)
    assert set(change) == {"weight", "count"}
    result = apply_change(base, change)
    assert torch.allclose(result["weight"], local["weight"], atol=1e-6)
    assert (int(result["count"]), result["kept"].tolist()) == (24, [0, 0])


@pytest.mark.parametrize(
    "score",
    [
        {"patients": 9, "figures": {"Jane Doe": 0.5}},
        {"patients": 9, "figures": {}},
        {"patients": 101, "figures": {"tumour": 0.5}},
        {"patients": 9, "figures": {"tumour": 1.5}},
        {"patients": 9, "figures": {"tumour": -0.5}},
        {"patients": 9, "figures": {"tumour": None}},
        {"patients": 9, "figures": {"tumour": 0.5, "rim": 0.5}},
        {"patients": 9, "figures": {"tumour": 0.5}, "interval": {"tumour": [0.4, 1.6]}},
        {"patients": 9, "figures": {"tumour": 0.5}, "support": {"tumour": 9}},
        {"patients": 9, "figures": {"tumour": 0.5}, "reliability": {"tumour": [[0.5, 0.5, 9]]}},
        {"withheld": "fewer than 5 patients of a class"},
    ],
)
def test_a_score_that_is_not_the_jobs_is_refused(score):
    update = make_update(metrics=Metrics(validation=Score(**score)))
    with pytest.raises(UpdateRefused, match="wrong-metrics"):
        validate(update, EXPECTED)


@pytest.mark.parametrize(
    "score",
    [
        {"withheld": "Jane Doe, 7 May"},
        {"withheld": "fewer than 5 patients", "patients": 3},
        {"withheld": "fewer than 5 patients", "patients": 3, "figures": {"tumour": 0.5}},
        {"patients": 9},
        {"figures": {"tumour": 0.5}},
        {"withheld": "fewer than 5 patients", "interval": {"tumour": [0.4, 0.6]}},
        {"patients": 9, "figures": {"tumour": 0.5}, "interval": {"core": [0.4, 0.6]}},
        {"patients": 9, "figures": {"tumour": 0.5}, "interval": {"tumour": [0.6, 0.4]}},
        {"patients": 9, "figures": {"tumour": 0.5}, "interval": {"tumour": [0.4, 0.5, 0.6]}},
        {"patients": 9, "figures": {"tumour": float("nan")}},
        {},
    ],
)
def test_a_score_has_figures_or_is_withheld_in_fixed_words(score):
    with pytest.raises(ValidationError):
        Score(**score)


def test_each_structure_has_an_interval_or_none_has():
    two = ScoreSpec(tuple(MetricSpec(name=name, figure="Dice", of=name) for name in ("a", "b")))
    both = {"patients": 9, "figures": {"a": 0.5, "b": 0.5}}
    assert two.accepts(Score(**both))
    assert two.accepts(Score(**both, interval={"a": [0.4, 0.6], "b": [0.4, 0.6]}))
    assert not two.accepts(Score(**both, interval={"a": [0.4, 0.6]}))


def test_a_counter_may_exceed_the_largest_change():
    validate(with_tensor("count", torch.tensor(20)), EXPECTED)


def test_only_the_code_of_an_error_is_sent():
    error = UsageError("missing-file", "no such file", "/data/Jane_Doe.nii.gz", "look for it")
    assert failure_of(error, "north") == Failure("north", "missing-file")
    assert failure_of(ValueError("Jane Doe, 7 May"), "north") == Failure("north", "internal-error")
    refused = UpdateRefused("north", "not-finite", "weight")
    assert failure_of(refused, "north") == Failure("north", "not-finite")


@pytest.mark.parametrize("plain", [None, {"code": "Jane Doe"}, {"code": "/data/x"}, {"code": 5}])
def test_a_failure_cannot_smuggle_text(plain):
    assert failure_from_wire(plain, "north") == Failure("north", "malformed")
