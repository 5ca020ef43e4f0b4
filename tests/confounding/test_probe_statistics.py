import numpy as np
import pytest
from pydantic import ValidationError
from tests.confounding.cases import LABELS, SHARES, Cases

from consortium.confounding.moments import LIMIT
from consortium.confounding.probe import judge, site_association
from consortium.confounding.probe_statistics import GroupMoments, ProbeStatistics
from consortium.confounding.run_probe import run_probe
from consortium.protocol.metrics import Metrics

SOUND = {
    "count": 7,
    "mean": [0.5, -1.0, 0.0],
    "scatter": [[2.0, 0.5, 0.0], [0.5, 3.0, 0.0], [0.0, 0.0, 1.0]],
}
FLAT = {"count": 7, "mean": [0.0, 0.0], "scatter": [[0.0, 1.0], [1.0, 0.0]]}


def statistics_of(cases):
    """The statistics that every hospital would send."""
    groups = {}
    for group, moments in cases.groups().items():
        groups.setdefault(group.hospital, {})[group.label] = GroupMoments.of(moments)
    return {
        name: ProbeStatistics(
            shares=SHARES[name], scores=scores, features=scores, acquisition=scores
        )
        for name, scores in groups.items()
    }


@pytest.mark.parametrize("slope", [0.0, 2.0])
def test_the_hospitals_statistics_give_the_result_of_their_patients(slope):
    cases = Cases(3, slope)
    # The statistics are sent as JSON.
    received = {
        name: ProbeStatistics.model_validate_json(sent.model_dump_json())
        for name, sent in statistics_of(cases).items()
    }
    result = run_probe(received, LABELS)
    straight = site_association(cases.groups(), SHARES, LABELS)
    assert result["verdict"] == judge(straight, SHARES).verdict
    assert result["site_association"]["z"] == pytest.approx(straight.z)
    assert result["site_association"]["labels"] == list(straight.labels)
    assert 0 <= result["features"]["auc"] <= 1
    assert (result["verdict"] == "confounded") == (slope == 2.0)


def test_without_statistics_nothing_is_estimable():
    result = run_probe({}, LABELS)
    assert result["verdict"] == "not estimable"
    assert (result["site_association"], result["features"], result["acquisition"]) == (
        None,
        None,
        None,
    )


@pytest.mark.parametrize(
    "spoil",
    [
        {"scores": {"Jane Doe": SOUND}},
        {"shares": {"Jane Doe": 7}},
        {"features": {"covid": {**SOUND, "mean": [0.0] * 5, "scatter": np.eye(5).tolist()}}},
        {"scores": {"covid": {**SOUND, "mean": [LIMIT + 1, 0.0, 0.0]}}},
        {"scores": {"covid": {**SOUND, "scatter": np.diag([-1.0, 1.0, 1.0]).tolist()}}},
        # Fewer scores than labels.
        {"scores": {"covid": {**FLAT, "scatter": [[1.0, 0.0], [0.0, 1.0]]}}},
        {"acquisition": {"covid": FLAT}},  # no spread, and yet a covariance
        {"acquisition": {"covid": {**FLAT, "scatter": [[1.0, 0.0]]}}},
        {"acquisition": {"covid": {**FLAT, "scatter": [[1.0, 0.5], [0.1, 1.0]]}}},
    ],
)
def test_implausible_statistics_do_not_fit(spoil):
    assert ProbeStatistics.model_validate({"scores": {"covid": SOUND}}).fits(LABELS, 4)
    assert not ProbeStatistics.model_validate(spoil).fits(LABELS, 4)


def test_statistics_that_are_not_numbers_are_refused():
    with pytest.raises(ValidationError):
        Metrics.model_validate({"confounding": {"scores": {"covid": {**SOUND, "mean": [np.nan]}}}})
