"""Mutated answers: each is refused, or is an update that the collector could have got honestly.

`CONSORTIUM_FUZZ` sets another number of examples, which are then drawn anew.
"""

import os

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.flare.answers import SCHEMA, JobProcess, encode, make_answer, make_update, new_collector

from consortium.core.errors import Failure
from consortium.flare.server.answers import metrics_from_shareable
from consortium.flare.wire import METRICS
from consortium.protocol.metrics import Metrics
from consortium.protocol.pipeline import Pipeline
from consortium.protocol.update import Update, UpdateRefused, update_from_wire, update_to_wire

EXAMPLES = int(os.environ.get("CONSORTIUM_FUZZ", "300"))
FUZZ = settings(
    max_examples=EXAMPLES,
    derandomize="CONSORTIUM_FUZZ" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)
PROCESS = JobProcess()
SOUND = encode(make_answer())


def check(answer):
    """Submits an answer; what is accepted has the schema, finite values and a possible weight."""
    assert isinstance(answer, Update | UpdateRefused | Failure)
    assert answer.hospital == "valley"
    collector = new_collector()
    collector.submit(make_update("north"))
    if isinstance(answer, UpdateRefused):
        collector.refuse(answer)
    elif isinstance(answer, Failure):
        collector.fail(answer)
    else:
        try:
            collector.submit(answer)
        except UpdateRefused:
            pass
        else:
            assert {n: (t.dtype, tuple(t.shape)) for n, t in answer.tensors.items()} == {
                name: (spec.dtype, spec.shape) for name, spec in SCHEMA.items()
            }
            assert (answer.round, answer.base_sha256) == (0, "base")
            assert 1 <= answer.cases <= 100_000
    change, report = collector.close()
    assert all(bool(torch.isfinite(tensor).all()) for tensor in change.values())
    assert "north" in report.answered
    accounted = {*report.answered, *report.failures, *(r.hospital for r in report.refused)}
    assert accounted == {"north", "valley"}


@st.composite
def mutated_bytes(draw):
    """The bytes of a sound answer, with a few of them changed, left out, repeated or put in."""
    message = bytearray(SOUND)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(message) - 1)) if message else 0
        match draw(st.sampled_from(["change", "cut", "repeat", "insert", "end"])):
            case "change":
                message[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "cut":
                del message[at : at + draw(st.integers(1, 40))]
            case "repeat":
                message[at:at] = message[at : at + draw(st.integers(1, 40))]
            case "insert":
                message[at:at] = draw(st.binary(min_size=1, max_size=12))
            case "end":
                del message[at:]
    return bytes(message)


@FUZZ
@given(mutated_bytes())
def test_mutated_bytes(message):
    check(PROCESS.read(message))


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=9)
    | st.sampled_from(["float32", "int64", "bfloat16", "valley", "north", "base", 2**62, -1]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def paths(value, path=()):
    """The places of all values inside a value."""
    yield path
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from paths(inner, (*path, key))


def with_value(value, path, new):
    """A copy of a value with another one at a place, or without what is there."""
    if not path:
        return new
    if isinstance(value, dict):
        rest = {key: inner for key, inner in value.items() if key != path[0]}
        if len(path) == 1 and new is ...:
            return rest
        return {**rest, path[0]: with_value(value[path[0]], path[1:], new)}
    items = list(value)
    if len(path) == 1 and new is ...:
        return [*items[: path[0]], *items[path[0] + 1 :]]
    items[path[0]] = with_value(items[path[0]], path[1:], new)
    return items


@st.composite
def mutated_fields(draw):
    """The fields of a sound update, with a few of them replaced or left out."""
    buffers, plain = update_to_wire(make_update())
    fields = {"plain": plain, "data": {k: (v.dtype.str, v.tobytes()) for k, v in buffers.items()}}
    for _ in range(draw(st.integers(1, 3))):
        places = [place for place in paths(fields) if len(place) > 1]
        place = draw(st.sampled_from(places))
        fields = with_value(fields, place, draw(PLAIN | st.just(...)))
    return fields


@FUZZ
@given(mutated_fields())
def test_mutated_fields(fields):
    answer = make_answer()
    answer["DXO"]["meta"] = {"update": fields["plain"]}
    answer["DXO"]["data"] = fields["data"]
    try:
        message = encode(answer)
    except RuntimeError:  # FLARE cannot encode it either, for example an integer of 70 bits
        return
    check(PROCESS.read(message))


@FUZZ
@given(mutated_fields())
def test_mutated_fields_without_flare(fields):
    """The in-process runs decode the same fields."""
    buffers, _ = update_to_wire(make_update())
    try:
        received = Pipeline().server(buffers, fields["plain"])
        check(update_from_wire(*received, "valley"))
    except UpdateRefused as refusal:
        check(refusal)


@st.composite
def mutated_statements(draw):
    """A hospital's metrics, with a few fields replaced or left out."""
    fields = make_update().metrics.model_dump()
    statement = {"metrics": fields}
    for _ in range(draw(st.integers(1, 3))):
        places = [place for place in paths(statement) if place] or [()]
        statement = with_value(statement, draw(st.sampled_from(places)), draw(PLAIN | st.just(...)))
    return statement.get("metrics") if isinstance(statement, dict) else statement


@FUZZ
@given(mutated_statements())
def test_mutated_statements(fields):
    answer = make_answer()
    del answer["DXO"]
    answer.set_header(METRICS, fields)
    try:
        message = encode(answer)
    except RuntimeError:
        return
    metrics = metrics_from_shareable(PROCESS.receive(message), "valley")
    assert isinstance(metrics, Metrics | Failure)
    if isinstance(metrics, Metrics):
        check(make_update("valley", metrics=metrics))
