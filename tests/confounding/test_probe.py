from itertools import combinations

import numpy as np
import pytest
from scipy.stats import chi2, norm
from tests.confounding.cases import LABELS, SHARES, Cases

from consortium.confounding.moments import Group, Moments, collect
from consortium.confounding.probe import (
    ALPHA,
    LEAST_MIX,
    SiteAssociation,
    SiteSeparation,
    cramers_v,
    judge,
    site_association,
    site_separation,
)


def association(groups: dict[Group, Moments]) -> SiteAssociation:
    result = site_association(groups, SHARES, LABELS)
    assert result is not None
    return result


def separation(groups: dict[Group, Moments]) -> SiteSeparation:
    result = site_separation(groups)
    assert result is not None
    return result


def verdict(cases: Cases) -> str:
    return judge(site_association(cases.groups(), SHARES, LABELS), SHARES).verdict


def test_the_closed_null_has_the_mean_and_variance_of_brute_force_permutations() -> None:
    cases, rng, runs = Cases(0, slope=0.8), np.random.default_rng(1), 400
    zs, statistics = [], []
    for _ in range(runs):
        cases.permute(rng)
        groups = cases.groups()
        zs.append(association(groups).z)
        statistics.append(separation(groups).statistic)
    freedom = separation(groups).freedom
    # z is scaled by the closed variance, which permutations do not change. Four Monte-Carlo errors.
    assert np.mean(zs) == pytest.approx(0, abs=4 / np.sqrt(runs))
    assert np.var(zs) == pytest.approx(1, abs=4 * np.sqrt(2 / runs))
    assert np.mean(statistics) == pytest.approx(freedom, abs=4 * np.sqrt(2 * freedom / runs))
    for level in (0.1, 0.5):
        within = 4 * np.sqrt(level * (1 - level) / runs)
        assert np.mean(np.array(zs) > norm.isf(level)) == pytest.approx(level, abs=within)
        above = np.array(statistics) > chi2.isf(level, freedom)
        assert np.mean(above) == pytest.approx(level, abs=within)


def test_over_all_permutations_mean_and_variance_are_exact() -> None:
    values = np.random.default_rng(2).normal(size=(13, 2))
    labels = np.array(["x"] * 7 + ["y"] * 6)
    shares = {"a": {"x": 70, "y": 20}, "b": {"x": 30, "y": 80}}
    zs, statistics, freedoms = [], [], set()
    for first in combinations(range(7), 4):
        for second in combinations(range(7, 13), 3):
            hospitals = np.full(13, "b")
            hospitals[[*first, *second]] = "a"
            groups = collect(values, hospitals, labels, range(13), 3)
            result = site_association(groups, shares, ["x", "y"])
            assert result is not None
            zs.append(result.z)
            statistics.append(separation(groups).statistic)
            freedoms.add(separation(groups).freedom)
    assert np.mean(zs) == pytest.approx(0, abs=1e-9)
    assert np.var(zs) == pytest.approx(1)
    assert freedoms == {2}
    assert np.mean(statistics) == pytest.approx(2)


def test_the_rate_of_false_positives_is_the_declared_one() -> None:
    runs = 200
    accused = sum(verdict(Cases(seed)) == "confounded" for seed in range(runs))
    assert accused / runs == pytest.approx(ALPHA, abs=4 * np.sqrt(ALPHA * (1 - ALPHA) / runs))


def test_an_association_is_found_with_its_slope_and_labels() -> None:
    results = [association(Cases(seed, slope=1.5).groups()) for seed in range(20)]
    assert all(result.p < ALPHA for result in results)
    assert np.mean([result.slope for result in results]) == pytest.approx(1.5, abs=0.2)
    # A score has a standard deviation near that of Student's distribution, the root of 2.
    standardised = [result.standardised for result in results]
    assert np.mean(standardised) == pytest.approx(1.5 / 2**0.5, abs=0.2)
    assert results[0].labels == LABELS
    judged = judge(results[0], SHARES)
    assert judged.verdict == "confounded"
    assert "tested on covid, normal, pneumonia" in judged.reason


def test_a_detectable_slope_is_found_in_four_of_five_runs() -> None:
    slope = float(np.median([association(Cases(seed).groups()).detectable for seed in range(10)]))
    runs = 200
    detected = sum(association(Cases(seed, slope).groups()).p < ALPHA for seed in range(runs))
    assert detected / runs == pytest.approx(0.8, abs=4 * np.sqrt(0.8 * 0.2 / runs))


def test_scores_that_avoid_the_frequent_labels_are_no_sign() -> None:
    assert verdict(Cases(0, slope=-3)) == "no sign"


def test_small_scores_have_the_same_standardised_slope_as_large_ones() -> None:
    cases = Cases(0, slope=1.5)
    large = association(cases.groups())
    cases.values /= 100
    small = association(cases.groups())
    assert small.slope < large.slope / 50
    assert small.standardised == pytest.approx(large.standardised, rel=0.1)


def test_neither_the_order_nor_the_names_of_hospitals_matter() -> None:
    groups = Cases(3, slope=0.5).groups()
    mirrored = dict(reversed(groups.items()))
    shares = dict(reversed(SHARES.items()))
    assert site_association(mirrored, shares, LABELS) == association(groups)
    assert site_separation(mirrored) == separation(groups)
    named = {f"h{number}": f"z{9 - number}" for number in range(4)}
    renamed = {
        Group(named[group.hospital], group.label): moments for group, moments in groups.items()
    }
    shares = {named[name]: counts for name, counts in SHARES.items()}
    again = site_association(renamed, shares, LABELS)
    assert again is not None
    assert again.z == pytest.approx(association(groups).z)
    assert separation(renamed).statistic == pytest.approx(separation(groups).statistic)


def test_scores_may_come_in_any_order_of_the_labels() -> None:
    cases = Cases(4, slope=0.5)
    straight = association(cases.groups())
    cases.values = cases.values[:, [2, 0, 1]]
    turned = site_association(cases.groups(), SHARES, [LABELS[index] for index in (2, 0, 1)])
    assert turned is not None
    assert turned.z == pytest.approx(straight.z)


def test_values_that_follow_no_label_separate_hospitals_without_an_association() -> None:
    shift = {"h0": 1.0, "h1": -1.0, "h2": 1.0, "h3": -1.0}
    cases = Cases(5)
    assert separation(cases.groups()).auc == pytest.approx(0.5, abs=0.1)
    # The same for every score: a mark of the scanner that follows no label.
    cases.values += np.array([shift[name] for name in cases.hospitals])[:, None]
    result = separation(cases.groups())
    assert result.p < 1e-6
    assert result.auc > 0.7
    assert verdict(cases) == "no sign"


def test_the_auc_is_that_of_normal_values() -> None:
    rng, count = np.random.default_rng(6), 4000
    values = rng.normal(size=(2 * count, 2))
    values[count:, 0] += 1
    hospitals = np.repeat(["a", "b"], count)
    groups = collect(values, hospitals, np.full(2 * count, "x"), range(2 * count), 10)
    # For two normal distributions one standard deviation apart: Phi(1 / root 2).
    assert separation(groups).auc == pytest.approx(norm.cdf(1 / 2**0.5), abs=0.02)


def test_with_similar_label_frequencies_there_is_no_sign() -> None:
    alike = {"a": {"x": 60, "y": 40}, "b": {"x": 50, "y": 50}}
    assert 0 < cramers_v(alike) < LEAST_MIX
    judged = judge(association(Cases(0, slope=3).groups()), alike)
    assert judged.verdict == "no sign"
    assert "no label was tested" in judged.reason


def test_hospitals_without_a_common_label_are_confounded() -> None:
    apart = {"a": {"x": 60}, "b": {"y": 50}}
    assert cramers_v(apart) == pytest.approx(1)
    assert judge(None, apart).verdict == "confounded"


def test_groups_too_small_to_report_are_not_estimable() -> None:
    cases = Cases(0, sizes=((9, 9, 9), (9, 9, 40), (40, 9, 9)))
    result = site_association(cases.groups(), SHARES, LABELS)
    assert result is None
    assert site_separation(cases.groups()) is None
    assert judge(result, SHARES).verdict == "not estimable"


@pytest.mark.parametrize(
    "shares", [{}, {"a": {}}, {"a": {"x": 0}}, {"a": {"x": 100, "y": 5}, "b": {}}]
)
def test_without_training_patients_at_two_hospitals_nothing_is_estimable(
    shares: dict[str, dict[str, int]],
) -> None:
    assert judge(None, shares).verdict == "not estimable"


def test_only_labels_that_two_hospitals_report_are_tested() -> None:
    cases = Cases(0, sizes=((40, 40, 9), (40, 9, 40)))
    shares = {"h0": SHARES["h0"], "h1": SHARES["h1"]}
    result = site_association(cases.groups(), shares, LABELS)
    assert result is not None
    assert result.labels == ("covid",)


def test_a_hospital_of_unknown_shares_is_left_out() -> None:
    groups = Cases(0, slope=1).groups()
    without = {group: moments for group, moments in groups.items() if group.hospital != "h2"}
    known = {name: counts for name, counts in SHARES.items() if name != "h2"}
    assert site_association(groups, known, LABELS) == site_association(without, known, LABELS)


@pytest.mark.parametrize(
    ("p", "words"), [(0.001, "histogram identify the"), (0.5, "do not identify the")]
)
def test_the_reason_mentions_whether_acquisition_features_identify_the_hospital(
    p: float, words: str
) -> None:
    result = association(Cases(0).groups())
    acquisition = SiteSeparation(statistic=30.0, freedom=24, p=p, auc=0.7)
    judged = judge(result, SHARES, acquisition)
    assert judged.verdict == judge(result, SHARES).verdict
    assert words in judged.reason
    assert "border" not in judge(result, SHARES).reason


def test_values_that_do_not_differ_are_not_tested() -> None:
    cases = Cases(0)
    cases.values[:] = 1
    assert site_association(cases.groups(), SHARES, LABELS) is None
    assert site_separation(cases.groups()) is None


def test_scores_and_shares_that_do_not_fit_the_labels_are_refused() -> None:
    groups = Cases(0).groups()
    with pytest.raises(ValueError, match="not of 2 labels"):
        site_association(groups, SHARES, LABELS[:2])
    with pytest.raises(ValueError, match="flu, which have no score"):
        site_association(groups, {"h0": {"flu": 3}}, LABELS)
    with pytest.raises(ValueError, match="differ in number"):
        site_separation({**groups, Group("h9", "covid"): Moments(9, np.zeros(1), np.zeros((1, 1)))})
