import numpy as np
import pytest
from pydantic import ValidationError
from tests.confounding.test_probe import LABELS, SHARES, Cases

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


def told_by(cases):
    """What every hospital would tell."""
    told = {}
    for group, found in cases.groups().items():
        told.setdefault(group.hospital, {})[group.label] = GroupMoments.of(found)
    return {
        name: ProbeStatistics(
            shares=SHARES[name], scores=scores, features=scores, acquisition=scores
        )
        for name, scores in told.items()
    }


@pytest.mark.parametrize("slope", [0.0, 2.0])
def test_what_hospitals_tell_is_weighed_as_their_patients_would_be(slope):
    cases = Cases(3, slope)
    told = told_by(cases)
    # They travel as JSON.
    carried = {
        name: ProbeStatistics.model_validate_json(said.model_dump_json())
        for name, said in told.items()
    }
    found = run_probe(carried, LABELS)
    straight = site_association(cases.groups(), SHARES, LABELS)
    assert found["verdict"] == judge(straight, SHARES).verdict
    assert found["site_association"]["z"] == pytest.approx(straight.z)
    assert found["site_association"]["labels"] == list(straight.labels)
    assert 0 <= found["features"]["auc"] <= 1
    assert (found["verdict"] == "confounded") == (slope == 2.0)


def test_where_nothing_was_told_nothing_is_said():
    found = run_probe({}, LABELS)
    assert found["verdict"] == "not estimable"
    assert (found["site_association"], found["features"], found["acquisition"]) == (
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
        # Fewer than the labels: no score of each.
        {"scores": {"covid": {**FLAT, "scatter": [[1.0, 0.0], [0.0, 1.0]]}}},
        {"acquisition": {"covid": FLAT}},  # no spread, and yet a covariance
        {"acquisition": {"covid": {**FLAT, "scatter": [[1.0, 0.0]]}}},
        {"acquisition": {"covid": {**FLAT, "scatter": [[1.0, 0.5], [0.1, 1.0]]}}},
    ],
)
def test_what_cannot_be_true_does_not_fit(spoil):
    assert ProbeStatistics.model_validate({"scores": {"covid": SOUND}}).fits(LABELS, 4)
    assert not ProbeStatistics.model_validate(spoil).fits(LABELS, 4)


def test_no_number_is_no_statement():
    with pytest.raises(ValidationError):
        Metrics.model_validate({"confounding": {"scores": {"covid": {**SOUND, "mean": [np.nan]}}}})
