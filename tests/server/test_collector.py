import pytest
import torch

from consortium.core.errors import Failure, Incomplete
from consortium.protocol.codec import digest
from consortium.protocol.metrics import Metrics
from consortium.protocol.schema import Reduction, TensorSpec
from consortium.protocol.update import Update, UpdateRefused
from consortium.server.collector import UpdateCollector
from consortium.tasks.segmentation.settings import SegmentationSettings

SCHEMA = {"w": TensorSpec(torch.float32, (2,), Reduction.MEAN)}
SETTINGS = SegmentationSettings.model_validate(
    {"data": {"channels": ["FLAIR"], "labels": {"tumour": [1]}, "size": [8, 8]}}
)
NAMES = ["east", "north", "west"]


def make_update(hospital, value=1.0, **changes):
    fields = {
        "hospital": hospital,
        "round": 0,
        "base_sha256": "base",
        "cases": 2,
        "tensors": {"w": torch.full((2,), value)},
        "metrics": Metrics(loss=1.0),
    }
    return Update(**(fields | changes))


@pytest.fixture
def collector():
    opened = UpdateCollector(SETTINGS, SCHEMA)
    opened.open(0, "base", NAMES)
    return opened


def refused_code(collector, update):
    with pytest.raises(UpdateRefused) as refusal:
        collector.submit(update)
    return refusal.value.code


def test_every_asked_hospital_is_accounted_for(collector):
    collector.submit(make_update("north", 3.0))
    assert refused_code(collector, make_update("east", torch.nan)) == "not-finite"
    collector.fail(Failure("west", "unreadable-file"))
    change, report = collector.close()
    assert change["w"].tolist() == [3, 3]
    assert (report.answered, report.lost, report.cases) == (["north"], ["west"], {"north": 2})
    assert [(r.hospital, r.tensor, r.code) for r in report.refused] == [("east", "w", "not-finite")]
    assert report.failures == {"west": "unreadable-file"}


def test_a_second_update_of_a_hospital_is_refused_and_the_first_stands(collector):
    collector.submit(make_update("north", 3.0))
    assert refused_code(collector, make_update("north", 5.0)) == "duplicate"
    change, report = collector.close()
    assert change["w"].tolist() == [3, 3]
    assert report.answered == ["north"]


def test_a_wrong_shape_that_comes_first_does_not_become_the_model(collector):
    wrong = make_update("east", tensors={"w": torch.zeros(5)})
    assert refused_code(collector, wrong) == "wrong-shape"
    collector.submit(make_update("north", 1.0))
    collector.submit(make_update("west", 2.0))
    change, report = collector.close()
    assert change["w"].tolist() == [1.5, 1.5]
    assert report.answered == ["north", "west"]


def test_a_refused_hospital_may_try_again_and_a_refusal_leaves_no_trace_in_the_mean(collector):
    partly_bad = torch.tensor([1.0, torch.inf])
    assert refused_code(collector, make_update("north", tensors={"w": partly_bad})) == "not-finite"
    collector.submit(make_update("north", 4.0))
    assert collector.close()[0]["w"].tolist() == [4, 4]


def test_an_answer_to_an_earlier_round_is_late(collector):
    collector.submit(make_update("north"))
    collector.close()
    collector.open(1, "next", NAMES)
    assert refused_code(collector, make_update("west")) == "late"
    collector.submit(make_update("north", round=1, base_sha256="next"))
    assert collector.close()[1].late == ["west"]


def test_an_update_that_is_not_sent_any_more_is_on_record_as_late(collector):
    collector.submit(make_update("north"))
    collector.close()
    collector.record_late("west")
    collector.open(1, "next", NAMES)
    collector.submit(make_update("north", round=1, base_sha256="next"))
    _, report = collector.close()
    assert report.late == ["west"]
    assert [(refusal.hospital, refusal.code) for refusal in report.refused] == [("west", "late")]


def test_a_hospital_that_was_not_asked_is_refused(collector):
    assert refused_code(collector, make_update("stranger")) == "not-asked"


def test_nothing_is_taken_when_no_round_is_open(collector):
    collector.submit(make_update("north"))
    collector.close()
    assert refused_code(collector, make_update("west")) == "late"


def test_a_round_without_any_update_ends_with_the_reasons(collector):
    refused_code(collector, make_update("east", torch.nan))
    collector.fail(Failure("west", "missing-file"))
    with pytest.raises(Incomplete, match="east not-finite; west missing-file"):
        collector.close()


def test_a_round_is_not_closed_below_its_quorum_and_stays_open(collector):
    collector.submit(make_update("north", 1.0))
    with pytest.raises(Incomplete, match="no-quorum: 1 update was accepted and the round needs 2"):
        collector.close(2)
    with pytest.raises(Incomplete, match="needs 1, including west"):
        collector.close(1, ["west"])
    collector.submit(make_update("west", 3.0))
    change, report = collector.close(2, ["west"])
    assert change["w"].tolist() == [2, 2]
    assert report.answered == ["north", "west"]


def test_a_hospital_that_this_round_does_not_ask_may_still_be_late(collector):
    collector.submit(make_update("north"))
    collector.close()
    collector.open(1, "next", ["north"])
    assert refused_code(collector, make_update("west")) == "late"
    assert refused_code(collector, make_update("west", round=1)) == "not-asked"


def test_a_reopened_round_forgets_what_it_had_taken(collector):
    collector.submit(make_update("north", 100.0))
    collector.open(0, "base", NAMES)
    collector.submit(make_update("west", 1.0))
    change, report = collector.close()
    assert change["w"].tolist() == [1, 1]
    assert report.answered == ["west"]


def test_the_aggregate_has_the_same_bytes_for_every_order(collector):
    digests = set()
    for order in (NAMES, NAMES[::-1], ["north", "west", "east"]):
        collector.open(0, "base", NAMES)
        for name in order:
            collector.submit(make_update(name, 0.1 * (1 + NAMES.index(name)), cases=3 + len(name)))
        digests.add(digest(collector.close()[0]))
    assert len(digests) == 1


def test_an_answer_after_the_round_is_late_in_the_next_and_changes_no_closed_record(collector):
    collector.submit(make_update("north"))
    _, first = collector.close()
    assert refused_code(collector, make_update("west")) == "late"
    assert (first.refused, first.late) == ([], [])
    collector.open(1, "base", NAMES)
    collector.submit(make_update("north", round=1))
    assert refused_code(collector, make_update("east")) == "late"
    _, second = collector.close()
    assert second.late == ["east", "west"]
    assert [(r.hospital, r.code) for r in second.refused] == [
        ("east", "late"),
        ("west", "late"),
    ]
