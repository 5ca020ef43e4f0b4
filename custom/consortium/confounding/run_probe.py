"""What is made of all that hospitals told for the confounding probe."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from consortium.confounding.moments import Group, Groups
from consortium.confounding.probe import Told, cramers_v, judge, site_association, site_separation
from consortium.confounding.probe_statistics import ProbeStatistics


def run_probe(statements: Mapping[str, ProbeStatistics], labels: Sequence[str]) -> dict[str, Any]:
    """What all hospitals' words say of a model, as JSON values.

    Args:
        statements: by hospital; each `fits`.
        labels: of the job, in the order of the scores.

    Returns:
        `verdict` and `reason` (see `judge`); `mix`, Cramer's V of hospital and label in training;
        `site_association`, `features` and `acquisition` (see `SiteAssociation` and `Told`), each
        null where it cannot be estimated.
    """
    shares = {name: told.shares for name, told in statements.items()}
    association = site_association(_groups(statements, "scores"), shares, labels)
    features = site_separation(_groups(statements, "features"))
    acquisition = site_separation(_groups(statements, "acquisition"))
    found = judge(association, shares, acquisition)
    return {
        "verdict": found.verdict,
        "reason": found.reason,
        "mix": cramers_v(shares),
        "site_association": asdict(association) | {"labels": list(association.labels)}
        if association
        else None,
        "features": _plain(features),
        "acquisition": _plain(acquisition),
    }


def _plain(told: Told | None) -> dict[str, Any] | None:
    return asdict(told) if told is not None else None


def _groups(statements: Mapping[str, ProbeStatistics], kind: str) -> Groups:
    """Those of one size: a hospital that lets out fewer dimensions than others is left out."""
    every = {
        Group(name, label): told.moments()
        for name, statement in statements.items()
        for label, told in getattr(statement, kind).items()
    }
    most = max((len(told.mean) for told in every.values()), default=0)
    return {group: told for group, told in every.items() if len(told.mean) == most}
