"""Tests whether a model learned the disease or the hospital, from the moments of its hospitals.

The null hypothesis: among patients with the same label, the model's output does not depend on the
hospital. The hospitals' names could then be exchanged among the patients of a label. Over all these
permutations, the pooled moments give the exact mean and covariance of the sum of a hospital's
values, and the sum tends to a normal distribution (Hoeffding, "A combinatorial central limit
theorem", 1951). The permutation null therefore needs neither permutations nor patients' values.
Strata are added as by Mantel and Haenszel (Landis, Heyman and Koch, "Average partial association in
three-way contingency tables", 1978).

Two tests:

- `site_separation`: do values (the model's features or the acquisition features) differ at all
  between hospitals, for equal labels?
- `site_association`: do the model's scores for a label rise, for equal true labels, at hospitals
  where that label is more frequent? A shortcut has this effect; the verdict rests on it alone.

Run the probe once per model, on held-out patients, if label frequencies differ between hospitals.
It does not show:

- The cause of an association. Sicker patients where their label is frequent look the same as a
  scanner that the model recognises. Acquisition features that identify the hospital are only a
  hint.
- The size of the harm. A slope is in log-odds. A model with small scores, such as one from
  federated averaging over hospitals of one class, has a small slope even with a strong association;
  `SiteAssociation` therefore has the slope in standard deviations of a score too.
- That there is no shortcut. "no sign" is about the labels that were tested, which are named, and
  about detectable slopes. A harmless shift of the scores between scanners can be associated with
  the labels by chance; more hospitals cure that, more patients do not.
- Anything within a hospital, such as two machines or wards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import chdtrc, ndtr, ndtri  # scipy.stats takes a second to import

from consortium.confounding.moments import Array, Groups, Moments, describe_p

ALPHA = 0.05
"""Declared rate of false positives, if scores do not depend on the hospital, given the label."""

LEAST_MIX = 0.2
"""Cramer's V of hospital and label below which a shortcut gains nothing: between the "small" 0.1
and the "medium" 0.3 of Cohen, Statistical Power Analysis (1988), section 7.2."""

POWER = 0.8
"""Probability of detecting the slope `SiteAssociation.detectable`."""

Shares = Mapping[str, Mapping[str, int]]
"""Training patients by hospital and label, without the counts that a hospital withholds."""


@dataclass(frozen=True, slots=True)
class SiteSeparation:
    """How well hospitals can be distinguished, for equal labels.

    Attributes:
        statistic: chi-squared statistic.
        freedom: its degrees of freedom.
        p: p-value under the permutation null.
        auc: AUC with which a linear rule distinguishes two hospitals, averaged over the pairs that
            share a label; corrected for chance, so about 0.5 without a difference.
    """

    statistic: float
    freedom: int
    p: float
    auc: float


@dataclass(frozen=True, slots=True)
class SiteAssociation:
    """How strongly scores follow a hospital's label frequencies, for equal true labels.

    Attributes:
        z: test statistic, standard normal under the null; positive if scores follow frequencies.
        p: one-sided p-value.
        slope: gain of a score, in its own unit, if the label's share at the hospital rises from 0
            to 1.
        detectable: slope that is detected with a probability of `POWER`.
        standardised: the slope over the standard deviation of a score among patients of one label.
        labels: labels whose patients were tested, sorted.
    """

    z: float
    p: float
    slope: float
    detectable: float
    standardised: float
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ProbeVerdict:
    """The verdict by the rule in `judge`, with the reason for people."""

    verdict: Literal["confounded", "no sign", "not estimable"]
    reason: str


def site_separation(groups: Groups) -> SiteSeparation | None:
    """Tests whether values identify the hospital, for equal labels.

    The statistic is v' V^+ v, where v stacks each hospital's sum of values about the stratum's
    mean, added over strata, and V = sum over strata of [diag(n) - n n'/N] (x) W / (N - 1), W being
    the stratum's total scatter (Landis, Heyman and Koch, 1978).

    Args:
        groups: moments of shape (d,) and (d, d).

    Returns:
        None if no label is reported by two hospitals, or all values are equal.

    Raises:
        ValueError: groups of different d.
    """
    strata = _strata(groups)
    if not strata:
        return None
    names = sorted({hospital for stratum in strata.values() for hospital in stratum})
    size = len(next(iter(groups.values())).mean)
    total = np.zeros((len(names), size))
    spread = np.zeros((len(names), size, len(names), size))
    for stratum in strata.values():
        counts, sums, scatter = _pooled(stratum)
        where = np.array([names.index(hospital) for hospital in stratum])
        total[where] += sums
        drawn = np.diag(counts) - np.outer(counts, counts) / counts.sum()
        every = np.arange(size)
        spread[np.ix_(where, every, where, every)] += np.einsum(
            "hg,ij->higj", drawn, scatter / (counts.sum() - 1)
        )
    values, vectors = np.linalg.eigh(spread.reshape(total.size, total.size))
    real = values > 1e-9 * max(values.max(), 1e-300)
    freedom = int(real.sum())
    if not freedom:
        return None
    statistic = float(((total.ravel() @ vectors)[real] ** 2 / values[real]).sum())
    return SiteSeparation(
        statistic, freedom, float(chdtrc(freedom, statistic)), _pair_auc(strata, size)
    )


def site_association(
    groups: Groups, shares: Shares, labels: Sequence[str]
) -> SiteAssociation | None:
    """Tests whether scores follow the hospital's own label frequencies, for equal true labels.

    T = sum over strata and hospitals of a_h . n_h (s_h - s), where s_h is the mean vector of the
    scores and a_h the hospital's training shares of the labels. Under permutation within strata
    E T = 0 and Var T = sum over strata of tr(A W) / (N - 1), with A = sum_h n_h (a_h - a)(a_h - a)'
    and W the total scatter of s (Hoeffding, 1951; Mantel, "Chi-square tests with one degree
    of freedom", 1963, for one score).

    Args:
        groups: moments of scores, in log-odds, one a label.
        shares: training patients; hospitals without any are left out.
        labels: labels of the scores, in their order.

    Returns:
        None if no label is reported by two hospitals whose shares differ, or all scores are equal.

    Raises:
        ValueError: scores that do not fit the labels, or shares of other labels.
    """
    if any(len(moments.mean) != len(labels) for moments in groups.values()):
        raise ValueError(f"the scores are not of {len(labels)} labels")
    if unknown := {label for counts in shares.values() for label in counts} - set(labels):
        raise ValueError(f"there are shares of {', '.join(sorted(unknown))}, which have no score")
    known = {name: share for name, share in shares.items() if sum(share.values())}
    tested = {group: moments for group, moments in groups.items() if group.hospital in known}
    top = spread = size = scatters = freedom = 0.0
    names = []
    for name, stratum in _strata(tested).items():
        counts, sums, scatter = _pooled(stratum)
        part = np.array(
            [[known[hospital].get(label, 0) for label in labels] for hospital in stratum], float
        )
        part /= part.sum(1, keepdims=True)
        part -= counts @ part / counts.sum()
        mixed = (counts[:, None] * part).T @ part
        if np.trace(mixed) <= 1e-12:
            continue
        names.append(name)
        top += float((part * sums).sum())
        spread += float((mixed * scatter).sum()) / (counts.sum() - 1)
        size += float(np.trace(mixed))
        scatters += float(np.trace(scatter))
        freedom += float(counts.sum() - 1) * len(labels)
    if spread <= 1e-12:
        return None
    slope, z = top / size, top / np.sqrt(spread)
    return SiteAssociation(
        z=float(z),
        p=float(ndtr(-z)),
        slope=slope,
        detectable=float(ndtri(POWER) - ndtri(ALPHA)) * float(np.sqrt(spread)) / size,
        standardised=slope / float(np.sqrt(scatters / freedom)),
        labels=tuple(names),
    )


def cramers_v(shares: Shares) -> float:
    """Computes Cramer's V of hospital and label among training patients, from 0 to 1.

    Cramer, Mathematical Methods of Statistics (1946), chapter 21. It is 0 for one hospital or one
    label; with few patients it is above 0 by chance alone.
    """
    labels = sorted({label for counts in shares.values() for label in counts})
    table = np.array(
        [[counts.get(label, 0) for label in labels] for counts in shares.values()], float
    )
    table = table.reshape(len(shares), len(labels))
    table = table[table.sum(1) > 0][:, table.sum(0) > 0]
    if min(table.shape) < 2:
        return 0.0
    expected = np.outer(table.sum(1), table.sum(0)) / table.sum()
    square = float(((table - expected) ** 2 / expected).sum())
    return float(np.sqrt(square / table.sum() / (min(table.shape) - 1)))


def judge(
    association: SiteAssociation | None, shares: Shares, acquisition: SiteSeparation | None = None
) -> ProbeVerdict:
    """Gives the verdict, by a rule that was fixed beforehand.

    1. Fewer than two hospitals report their training patients: "not estimable".
    2. Label frequencies are similar (Cramer's V below `LEAST_MIX`): "no sign", because a shortcut
       through the hospital gains nothing.
    3. No label occurs at two hospitals: "confounded", because hospital and disease coincide.
    4. Labels occur at two hospitals, but in groups too small to report: "not estimable".
    5. Otherwise: "confounded" if scores follow the label frequencies, p below `ALPHA`, else "no
       sign".

    Args:
        association: association of the scores of held-out patients.
        shares: the training patients.
        acquisition: separation by acquisition features of the same patients. The reason mentions
            whether they identify the hospital; the verdict does not depend on it.
    """
    verdict, reason = _rule(association, shares)
    if acquisition is not None:
        identify = "identify" if acquisition.p < ALPHA else "do not identify"
        reason += (
            f"; border and histogram {identify} the hospital "
            f"(AUC {acquisition.auc:.2f}, {describe_p(acquisition.p)})"
        )
    return ProbeVerdict(verdict, reason)


def _rule(
    association: SiteAssociation | None, shares: Shares
) -> tuple[Literal["confounded", "no sign", "not estimable"], str]:
    labels = [label for counts in shares.values() for label, count in counts.items() if count]
    if not labels:
        return "not estimable", "no hospital reports how many patients of each label it trained on"
    if sum(any(counts.values()) for counts in shares.values()) < 2:
        return (
            "not estimable",
            "only one hospital reports how many patients of each label it trained on",
        )
    mix = cramers_v(shares)
    if mix < LEAST_MIX:
        return (
            "no sign",
            f"label frequencies are similar at all hospitals (V {mix:.2f}), no label was tested",
        )
    if len(labels) == len(set(labels)):
        return "confounded", "no label occurs at two hospitals, so none could be tested"
    if association is None:
        return "not estimable", "too few held-out patients with the same label at two hospitals"
    result = (
        f"slope {association.slope:+.2f}, {association.standardised:+.2f} standard deviations, "
        f"{describe_p(association.p)}, tested on {', '.join(association.labels)}"
    )
    if association.p < ALPHA:
        return "confounded", f"scores favour the hospital's frequent labels: {result}"
    return "no sign", (
        f"{result}; a slope of {association.detectable:.2f} would be detected in {POWER:.0%} of"
        " models"
    )


def _strata(groups: Groups) -> dict[str, dict[str, Moments]]:
    """Groups moments by label and hospital, for the labels that two hospitals report."""
    if len({len(moments.mean) for moments in groups.values()}) > 1:
        raise ValueError("the groups' values differ in number")
    strata: dict[str, dict[str, Moments]] = {}
    for group in sorted(groups, key=lambda group: (group.label, group.hospital)):
        strata.setdefault(group.label, {})[group.hospital] = groups[group]
    return {label: stratum for label, stratum in strata.items() if len(stratum) > 1}


def _pooled(stratum: Mapping[str, Moments]) -> tuple[Array, Array, Array]:
    """Returns of H hospitals counts (H,), n (mean - pooled mean) (H, d), total scatter (d, d)."""
    counts = np.array([moments.count for moments in stratum.values()], float)
    means = np.stack([moments.mean for moments in stratum.values()])
    centred = means - counts @ means / counts.sum()
    sums = counts[:, None] * centred
    within = np.sum([moments.scatter for moments in stratum.values()], axis=0)
    scatter: Array = within + sums.T @ centred
    return counts, sums, scatter


def _pair_auc(strata: Mapping[str, Mapping[str, Moments]], size: int) -> float:
    """Averages Phi(D / sqrt 2) over pairs of hospitals, where D is the Mahalanobis distance.

    D^2 is made unbiased under normality (Lachenbruch and Mickey, "Estimation of error rates in
    discriminant analysis", 1968): D^2 (v - d - 1) / v - d (1/n1 + 1/n2), where v is the degrees of
    freedom of the pooled covariance. Pairs are weighted by n1 n2 / (n1 + n2).
    """
    groups = [moments for stratum in strata.values() for moments in stratum.values()]
    freedom = sum(moments.count - 1 for moments in groups)
    if freedom <= size + 1:
        return 0.5
    covariance = np.sum([moments.scatter for moments in groups], axis=0) / freedom
    inverse = np.linalg.pinv(covariance, hermitian=True, rcond=1e-9)
    pairs: dict[tuple[str, str], list[tuple[float, Array]]] = {}
    for stratum in strata.values():
        names = list(stratum)
        for index, first in enumerate(names):
            for second in names[index + 1 :]:
                a, b = stratum[first], stratum[second]
                weight = a.count * b.count / (a.count + b.count)
                pairs.setdefault((first, second), []).append((weight, a.mean - b.mean))
    aucs, weights = [], []
    for differences in pairs.values():
        weight = sum(part for part, _ in differences)
        mean = np.sum([part * difference for part, difference in differences], axis=0) / weight
        square = mean @ inverse @ mean * (freedom - size - 1) / freedom - size / weight
        aucs.append(ndtr(np.sign(square) * np.sqrt(abs(square) / 2)))
        weights.append(weight)
    return float(np.average(aucs, weights=weights))
