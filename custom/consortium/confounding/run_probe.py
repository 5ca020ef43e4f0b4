"""Runs the confounding probe on the statistics of all hospitals."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from consortium.confounding.moments import Group, Groups
from consortium.confounding.probe import (
    SiteSeparation,
    cramers_v,
    judge,
    site_association,
    site_separation,
)
from consortium.confounding.probe_statistics import ProbeStatistics


def run_probe(statistics: Mapping[str, ProbeStatistics], labels: Sequence[str]) -> dict[str, Any]:
    """Tests whether a model learned the disease or the hospital.

    Args:
        statistics: by hospital; each `fits`.
        labels: the job's labels, in the order of the scores.

    Returns:
        JSON values: `verdict` and `reason` (see `judge`); `mix`, Cramer's V of hospital and label
        in training; `site_association`, `features` and `acquisition` (see `SiteAssociation` and
        `SiteSeparation`), each null if it cannot be estimated.
    """
    shares = {name: hospital.shares for name, hospital in statistics.items()}
    association = site_association(_groups(statistics, "scores"), shares, labels)
    features = site_separation(_groups(statistics, "features"))
    acquisition = site_separation(_groups(statistics, "acquisition"))
    judged = judge(association, shares, acquisition)
    return {
        "verdict": judged.verdict,
        "reason": judged.reason,
        "mix": cramers_v(shares),
        "site_association": asdict(association) | {"labels": list(association.labels)}
        if association
        else None,
        "features": _plain(features),
        "acquisition": _plain(acquisition),
    }


def _plain(separation: SiteSeparation | None) -> dict[str, Any] | None:
    return asdict(separation) if separation is not None else None


def _groups(statistics: Mapping[str, ProbeStatistics], kind: str) -> Groups:
    """Returns the groups of the largest dimension; a hospital that reports fewer is left out."""
    groups = {
        Group(name, label): moments.moments()
        for name, hospital in statistics.items()
        for label, moments in getattr(hospital, kind).items()
    }
    largest = max((len(moments.mean) for moments in groups.values()), default=0)
    return {group: moments for group, moments in groups.items() if len(moments.mean) == largest}
