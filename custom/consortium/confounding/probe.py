"""Did a model learn the disease or the hospital? Tests from the moments that hospitals tell.

The null hypothesis: among patients with the same label, what the model says does not depend on the
hospital. Then hospitals' names could be exchanged among the patients of a label. Over all these
permutations the sum of a hospital's values has a mean and a covariance that the pooled moments
give exactly, and it tends to a normal law (Hoeffding, "A combinatorial central limit theorem",
1951), so the permutation null needs no permutation, and no patient's value. Strata are added as
Mantel and Haenszel do (Landis, Heyman and Koch, "Average partial association in three-way
contingency tables", 1978).

Two tests:

- `site_separation`: do values (features of the model, or of borders and histogram) differ at all
  between hospitals, labels being equal?
- `site_association`: do the model's scores for a label rise, labels being equal, at the hospitals
  where that label is more frequent? That is what a shortcut does; the verdict rests on it alone.

When to use it: once per model, on patients who were held out, where hospitals have their labels in
unlike shares. What it does not show:

- Why scores lean. Patients who are sicker where their label is frequent look the same as a scanner
  that the model recognises; whether borders and histogram tell the hospital too is a hint, no more.
- How much harm is done. A slope is in log-odds, and a model whose scores are small, as federated
  averaging over hospitals of one class makes them, has a small slope however it leans:
  `SiteAssociation` has the slope in standard deviations of a score too.
- That there is no shortcut. "no sign" is about the labels that were tested, which are named, and
  about slopes as large as would have been found. A harmless shift of the scores between scanners
  can lean by chance, which more patients do not cure, only more hospitals.
- Anything within a hospital, such as two machines or wards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import chdtrc, ndtr, ndtri  # scipy.stats takes a second to import

from consortium.confounding.moments import Array, Groups, Moments, describe_p

ALPHA = 0.05
"""Declared rate of false positives, where scores do not depend on the hospital, given the label."""

LEAST_MIX = 0.2
"""Cramer's V of hospital and label below which a shortcut has nothing to win: between the "small"
0.1 and the "medium" 0.3 of Cohen, Statistical Power Analysis (1988), section 7.2."""

POWER = 0.8
"""Probability with which the slope `SiteAssociation.detectable` is found."""

Shares = Mapping[str, Mapping[str, int]]
"""Training patients by hospital and label; counts that a hospital withholds are left out."""


@dataclass(frozen=True, slots=True)
class Told:
    """How well hospitals can be told apart, labels being equal.

    Attributes:
        statistic: chi-squared, with `freedom` degrees.
        freedom: see there.
        p: of the permutation null.
        auc: with which a linear rule tells two hospitals apart, mean over the pairs that share a
            label; corrected for chance, so about 0.5 where there is nothing.
    """

    statistic: float
    freedom: int
    p: float
    auc: float


@dataclass(frozen=True, slots=True)
class SiteAssociation:
    """How far a model leans towards a hospital's frequent labels, the true labels being equal.

    Attributes:
        z: standard normal under the null; positive where the model leans.
        p: one-sided.
        slope: what a score gains, in its own unit, when the label's share at the hospital goes from
            0 to 1.
        detectable: slope that is found with a probability of `POWER`.
        standardised: the slope over the standard deviation of a score among patients of one label.
        labels: of whose patients it speaks, sorted.
    """

    z: float
    p: float
    slope: float
    detectable: float
    standardised: float
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """By the rule in `judge`, with the reason for people."""

    verdict: Literal["confounded", "no sign", "not estimable"]
    reason: str


def site_separation(groups: Groups) -> Told | None:
    """Whether values tell the hospital, labels being equal.

    The statistic is v' V^+ v, where v stacks each hospital's sum of values about the stratum's
    mean, added over strata, and V = sum over strata of [diag(n) - n n'/N] (x) W / (N - 1), W being
    the stratum's total scatter (Landis, Heyman and Koch, 1978).

    Args:
        groups: moments of shape (d,) and (d, d).

    Returns:
        None where no label is told by two hospitals, or all values are equal.

    Raises:
        ValueError: groups of different d.
    """
    strata = _strata(groups)
    if not strata:
        return None
    names = sorted({hospital for held in strata.values() for hospital in held})
    size = len(next(iter(groups.values())).mean)
    total = np.zeros((len(names), size))
    spread = np.zeros((len(names), size, len(names), size))
    for held in strata.values():
        counts, sums, scatter = _pooled(held)
        where = np.array([names.index(hospital) for hospital in held])
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
    return Told(statistic, freedom, float(chdtrc(freedom, statistic)), _pair_auc(strata, size))


def site_association(
    groups: Groups, shares: Shares, labels: Sequence[str]
) -> SiteAssociation | None:
    """Whether scores follow the hospital's own label frequencies, true labels being equal.

    T = sum over strata and hospitals of a_h . n_h (s_h - s), where s_h is the mean vector of the
    scores and a_h the hospital's training shares of the labels. Under permutation within strata
    E T = 0 and Var T = sum over strata of tr(A W) / (N - 1), with A = sum_h n_h (a_h - a)(a_h - a)'
    and W the total scatter of s (Hoeffding, 1951; Mantel, "Chi-square tests with one degree
    of freedom", 1963, for one score).

    Args:
        groups: moments of scores, in log-odds, one a label.
        shares: hospitals of which nothing is known here take no part.
        labels: of the scores, in their order.

    Returns:
        None where no label is told by two hospitals whose shares differ, or all scores are equal.

    Raises:
        ValueError: scores that do not fit the labels, or shares of other labels.
    """
    if any(len(told.mean) != len(labels) for told in groups.values()):
        raise ValueError(f"scores that are not of {len(labels)} labels")
    if unknown := {label for held in shares.values() for label in held} - set(labels):
        raise ValueError(f"shares of {', '.join(sorted(unknown))}, which have no score")
    known = {name: held for name, held in shares.items() if sum(held.values())}
    tested = {group: told for group, told in groups.items() if group.hospital in known}
    top = spread = size = scatters = freedom = 0.0
    names = []
    for name, held in _strata(tested).items():
        counts, sums, scatter = _pooled(held)
        part = np.array([[known[site].get(label, 0) for label in labels] for site in held], float)
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
    """Cramer's V of hospital and label among training patients, from 0 to 1.

    Cramer, Mathematical Methods of Statistics (1946), chapter 21. It is 0 where there is one
    hospital or one label; with few patients it is above 0 by chance alone.
    """
    labels = sorted({label for held in shares.values() for label in held})
    table = np.array([[held.get(label, 0) for label in labels] for held in shares.values()], float)
    table = table.reshape(len(shares), len(labels))
    table = table[table.sum(1) > 0][:, table.sum(0) > 0]
    if min(table.shape) < 2:
        return 0.0
    expected = np.outer(table.sum(1), table.sum(0)) / table.sum()
    square = float(((table - expected) ** 2 / expected).sum())
    return float(np.sqrt(square / table.sum() / (min(table.shape) - 1)))


def judge(
    association: SiteAssociation | None, shares: Shares, acquisition: Told | None = None
) -> Verdict:
    """The verdict, by a rule fixed beforehand.

    1. Nothing is known of the training patients, or those of one hospital alone: "not estimable".
    2. Hospitals have their labels in like shares (Cramer's V below `LEAST_MIX`): "no sign"; there
       is nothing that a shortcut through the hospital could win.
    3. No label is had by two hospitals: "confounded"; hospital and disease are one.
    4. Labels are shared, but by groups too small to be told: "not estimable".
    5. Otherwise "confounded" where the model leans, p below `ALPHA`, and "no sign" elsewhere.

    Args:
        association: of the scores of held-out patients.
        shares: of the training patients.
        acquisition: of borders and histogram of the same patients; it has no part in the verdict,
            the reason says whether it tells the hospital.
    """
    verdict, reason = _rule(association, shares)
    if acquisition is not None:
        tell = "tell" if acquisition.p < ALPHA else "do not tell"
        reason += (
            f"; borders and histogram {tell} the hospital "
            f"(AUC {acquisition.auc:.2f}, {describe_p(acquisition.p)})"
        )
    return Verdict(verdict, reason)


def _rule(
    association: SiteAssociation | None, shares: Shares
) -> tuple[Literal["confounded", "no sign", "not estimable"], str]:
    held = [label for counts in shares.values() for label, count in counts.items() if count]
    if not held:
        return "not estimable", "no hospital tells how many patients of a label it trained on"
    if sum(any(counts.values()) for counts in shares.values()) < 2:
        return (
            "not estimable",
            "one hospital alone tells how many patients of a label it trained on",
        )
    mix = cramers_v(shares)
    if mix < LEAST_MIX:
        return "no sign", f"hospitals have their labels in like shares (V {mix:.2f}), none tested"
    if len(held) == len(set(held)):
        return "confounded", "no label is had by two hospitals, so none could be tested"
    if association is None:
        return "not estimable", "too few held-out patients of a label at two hospitals"
    found = (
        f"slope {association.slope:+.2f}, {association.standardised:+.2f} standard deviations, "
        f"{describe_p(association.p)}, tested on {', '.join(association.labels)}"
    )
    if association.p < ALPHA:
        return "confounded", f"scores lean towards the hospital's frequent labels: {found}"
    return "no sign", (
        f"{found}; a slope of {association.detectable:.2f} would be found in {POWER:.0%} of models"
    )


def _strata(groups: Groups) -> dict[str, dict[str, Moments]]:
    """Moments by label and hospital, of the labels that two hospitals tell."""
    if len({len(told.mean) for told in groups.values()}) > 1:
        raise ValueError("groups whose values differ in number")
    found: dict[str, dict[str, Moments]] = {}
    for group in sorted(groups, key=lambda group: (group.label, group.hospital)):
        found.setdefault(group.label, {})[group.hospital] = groups[group]
    return {label: held for label, held in found.items() if len(held) > 1}


def _pooled(held: Mapping[str, Moments]) -> tuple[Array, Array, Array]:
    """Of H hospitals: counts (H,), n (mean - pooled mean) (H, d), and the total scatter (d, d)."""
    counts = np.array([told.count for told in held.values()], float)
    means = np.stack([told.mean for told in held.values()])
    apart = means - counts @ means / counts.sum()
    sums = counts[:, None] * apart
    scatter: Array = np.sum([told.scatter for told in held.values()], axis=0) + sums.T @ apart
    return counts, sums, scatter


def _pair_auc(strata: Mapping[str, Mapping[str, Moments]], size: int) -> float:
    """Mean over pairs of hospitals of Phi(D / sqrt 2), D the Mahalanobis distance.

    D^2 is made unbiased under normality (Lachenbruch and Mickey, "Estimation of error rates in
    discriminant analysis", 1968): D^2 (v - d - 1) / v - d (1/n1 + 1/n2), v being the degrees of
    freedom of the pooled covariance. Pairs are weighted by n1 n2 / (n1 + n2).
    """
    groups = [told for held in strata.values() for told in held.values()]
    freedom = sum(told.count - 1 for told in groups)
    if freedom <= size + 1:
        return 0.5
    covariance = np.sum([told.scatter for told in groups], axis=0) / freedom
    inverse = np.linalg.pinv(covariance, hermitian=True, rcond=1e-9)
    pairs: dict[tuple[str, str], list[tuple[float, Array]]] = {}
    for held in strata.values():
        names = list(held)
        for index, first in enumerate(names):
            for second in names[index + 1 :]:
                one, two = held[first], held[second]
                weight = one.count * two.count / (one.count + two.count)
                pairs.setdefault((first, second), []).append((weight, one.mean - two.mean))
    aucs, weights = [], []
    for found in pairs.values():
        weight = sum(part for part, _ in found)
        apart = np.sum([part * gap for part, gap in found], axis=0) / weight
        square = apart @ inverse @ apart * (freedom - size - 1) / freedom - size / weight
        aucs.append(ndtr(np.sign(square) * np.sqrt(abs(square) / 2)))
        weights.append(weight)
    return float(np.average(aucs, weights=weights))
